import pickle
from functools import partial
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import (
    Compose,
    OneOf,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    ResizeWithPadOrCrop,
    ScaleIntensityRanged,
)

from custom.data.cache import VolumeCache
from custom.data.datasets import FAR_WEIGHT, PatchDataset, SliceDataset, VolumeDataset
from custom.errors import DataError
from custom.transforms.rand_warp import RandWarpd


def volume(name="a", shape=(20, 24, 28), seed=0, label=None, spacing=(1.0, 1.0, 1.0), dtype=np.uint8):
    """A volume as the cache hands it out, of random voxels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, shape, dtype=dtype)
    if label is None:
        label = (rng.random(shape) < 0.02).astype(np.uint8)
    classes = range(int(label.max()) + 1)
    return SimpleNamespace(
        id=name,
        image_path=f"{name}.tif",
        image=image,
        label=label,
        affine=np.diag([*spacing, 1.0]),
        original_affine=np.diag([*spacing[::-1], 1.0]),
        spacing=spacing,
        foreground={c: np.argwhere(label == c)[:500].astype(np.int32) for c in classes if c},
        label_histogram=np.stack([(label == c).sum((1, 2)) for c in classes], 1),
    )


def at(place, shape=(20, 24, 28)):
    """A label with a single voxel."""
    label = np.zeros(shape, np.uint8)
    label[place] = 1
    return label


def patches(volumes, n=200, **arguments):
    dataset = PatchDataset(data=volumes, **{"patch_size": (8, 10, 12), "seed": 5, **arguments})
    return [dataset[k] for k in range(n)]


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) if not isinstance(a, str) else a == b
        for a, b in zip(first.values(), second.values(), strict=True)
    )


# patches


def test_a_patch_is_the_box_of_image_and_label_at_its_position():
    volumes = [volume("a", seed=1), volume("b", (17, 31, 14), seed=2, dtype=np.int16)]
    for item in patches(volumes, 40):
        source = volumes["ab".index(item["id"])]
        box = tuple(slice(p, p + s) for p, s in zip(item["position"].tolist(), (8, 10, 12), strict=True))
        assert type(item["image"]) is torch.Tensor
        assert item["image"].shape == (1, 8, 10, 12)
        assert item["image"].numpy().dtype == source.image.dtype
        assert item["label"].dtype == torch.uint8
        np.testing.assert_array_equal(item["image"][0], source.image[box])
        np.testing.assert_array_equal(item["label"][0], source.label[box])


def test_a_patch_does_not_alias_the_volume():
    source = volume()
    before = source.image.copy()
    PatchDataset(data=[source], patch_size=source.image.shape, seed=0)[0]["image"].zero_()
    np.testing.assert_array_equal(source.image, before)


def test_item_k_depends_on_seed_and_k_alone():
    volumes = [volume("a", seed=1), volume("b", seed=2)]
    keys = ["image", "label"]
    transform = Compose(
        [
            ScaleIntensityRanged(keys="image", a_min=0, a_max=255, b_min=0, b_max=1),
            RandWarpd(keys=keys, prob=0.5, rotate_range=0.5, elastic_magnitude=2.0, slice_shift=1.0),
            Rand3DElasticd(
                keys=keys, prob=0.3, sigma_range=(1, 2), magnitude_range=(2, 4), mode=["bilinear", "nearest"]
            ),
            RandAffined(keys=keys, prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"]),
            RandFlipd(keys=keys, prob=0.5, spatial_axis=0),
            RandRotate90d(keys=keys, prob=0.5, max_k=2, spatial_axes=(1, 2)),
            OneOf(
                [RandAdjustContrastd(keys="image", prob=1.0), RandScaleIntensityd(keys="image", prob=1.0, factors=0.3)]
            ),
            RandGaussianNoised(keys="image", prob=0.5),
            RandCoarseDropoutd(keys="image", prob=0.5, holes=2, spatial_size=3),
        ]
    )
    one, other = (PatchDataset(data=volumes, patch_size=(8, 8, 8), seed=5, transform=transform) for _ in range(2))
    in_order = [one[k] for k in range(12)]
    np.random.random(3)
    torch.rand(3)
    for k in (7, 3, 11, 0, 7):
        assert same(other[k], in_order[k])
    reseeded = PatchDataset(data=volumes, patch_size=(8, 8, 8), seed=6, transform=transform)
    assert not any(same(reseeded[k], in_order[k]) for k in range(12))
    assert len({item["image"].numpy().tobytes() for item in in_order}) == 12
    assert not any(isinstance(value, MetaTensor) for item in in_order for value in item.values())


def test_indices_have_no_end_but_a_beginning():
    dataset = PatchDataset(data=[volume()], patch_size=(4, 4, 4), seed=2**64 - 1)
    assert not same(dataset[10**15], dataset[10**15 + 1])
    with pytest.raises(IndexError):
        dataset[-1]


def test_every_volume_comes_once_a_round_and_each_round_has_its_order():
    names = [item["id"] for item in patches([volume(name) for name in "abcdef"], 60)]
    rounds = {tuple(names[i : i + 6]) for i in range(0, 60, 6)}
    assert all(sorted(order) == list("abcdef") for order in rounds)
    assert len(rounds) > 5


def test_foreground_patches_hold_their_voxel_in_the_middle_half():
    place = (10, 12, 14)
    items = patches([volume(label=at(place))], 300, foreground_share=1.0)
    inside = np.array([np.array(place) - item["position"].numpy() for item in items])
    for axis, size in enumerate((8, 10, 12)):
        assert inside[:, axis].min() == size // 2 - size // 4
        assert inside[:, axis].max() == size // 2 + size // 4


def test_foreground_at_the_rim_still_gives_patches_inside_the_volume():
    for place in [(0, 0, 0), (19, 23, 27)]:
        for item in patches([volume(label=at(place))], 20, foreground_share=1.0):
            assert item["label"].sum() == 1
            assert (item["position"] >= 0).all()
            assert (item["position"] + torch.tensor([8, 10, 12]) <= torch.tensor([20, 24, 28])).all()


def test_the_share_of_foreground_patches():
    items = patches([volume(label=at((0, 0, 0)))], 400, foreground_share=0.5)
    # A patch elsewhere holds the corner voxel only if it lies in the corner: 1 of 13 * 15 * 17 places.
    assert 0.43 < np.mean([item["label"].sum() for item in items]) < 0.57


def test_patches_elsewhere_reach_every_place():
    positions = np.array([item["position"].tolist() for item in patches([volume()], 600, foreground_share=0.0)])
    assert positions.min(0).tolist() == [0, 0, 0]
    assert positions.max(0).tolist() == [12, 14, 16]
    np.testing.assert_allclose(positions.mean(0), [6, 7, 8], atol=0.7)


def test_foreground_classes_are_picked_alike_and_only_where_present():
    label = np.zeros((20, 24, 28), np.uint8)
    label[2:6] = 1
    label[17, 20, 20] = 2
    volumes = [volume("both", label=label), volume("one", label=at((10, 10, 10))), volume("none", label=label * 0)]
    items = patches(volumes, 600, foreground_share=1.0, classes=(1, 2))
    both = np.mean([bool((item["label"] == 2).any()) for item in items if item["id"] == "both"])
    assert 0.4 < both < 0.6
    assert all((item["label"] == 1).any() for item in items if item["id"] == "one")
    assert sum(item["id"] == "none" for item in items) == 200


def test_a_volume_smaller_than_the_patch_lies_in_its_middle():
    source = volume(shape=(5, 24, 7))
    for item in patches([source], 20, label_padding=2, foreground_share=0.5):
        z, y, x = item["position"].tolist()
        assert (z, x) == (-1, -2)
        rows = slice(y, y + 10)
        padding = [(1, 2), (0, 0), (2, 3)]
        np.testing.assert_array_equal(item["image"][0], np.pad(source.image[:, rows], padding, mode="edge"))
        np.testing.assert_array_equal(item["label"][0], np.pad(source.label[:, rows], padding, constant_values=2))


class RecordingArray(np.ndarray):
    """Counts the voxels that are read by indexing; whatever reads it otherwise is not counted."""

    voxels_read = 0

    def __getitem__(self, key):
        part = np.ndarray.__getitem__(self, key).view(np.ndarray)
        RecordingArray.voxels_read += part.size
        return part


def test_only_the_patch_is_read(monkeypatch):
    monkeypatch.setattr(RecordingArray, "voxels_read", 0)
    source = volume()
    source.image, source.label = source.image.view(RecordingArray), source.label.view(RecordingArray)
    patches([source], 3)
    assert RecordingArray.voxels_read == 3 * 2 * 8 * 10 * 12


# slices


def organ(depth=40, tumor=(20, 22), liver=(15, 30), shape=(6, 5)):
    label = np.zeros((depth, *shape), np.uint8)
    label[liver[0] : liver[1], 1:4, 1:4] = 1
    label[tumor[0] : tumor[1], 2, 2] = 2
    return label


def drawn_slices(volumes, n=600, **arguments):
    dataset = SliceDataset(data=volumes, seed=3, **arguments)
    return [dataset[k] for k in range(n)]


def test_a_slice_and_its_label_are_those_of_the_volume():
    source = volume(shape=(40, 6, 5), label=organ(), dtype=np.int16)
    for item in drawn_slices([source], 30):
        assert item["image"].shape == item["label"].shape == (1, 6, 5)
        assert item["image"].dtype == torch.int16
        np.testing.assert_array_equal(item["image"][0], source.image[item["slice"]])
        np.testing.assert_array_equal(item["label"][0], source.label[item["slice"]])


@pytest.mark.parametrize(("context", "offsets"), [({}, [-2, -1, 0, 1, 2]), ({"context_mm": 5.0}, [-4, -2, 0, 2, 4])])
def test_context_channels_are_the_neighbours_with_the_ends_repeated(context, offsets):
    source = volume(shape=(40, 6, 5), label=organ(), spacing=(2.5, 1.0, 1.0))
    seen = set()
    for item in drawn_slices([source], 200, n_context=2, shares={"any": 1}, **context):
        expected = source.image[np.clip(item["slice"] + np.array(offsets), 0, 39)]
        np.testing.assert_array_equal(item["image"], expected)
        np.testing.assert_array_equal(item["label"][0], source.label[item["slice"]])
        seen.add(item["slice"])
    assert {0, 39} <= seen


@pytest.mark.parametrize(("share", "slices"), [("tumor", range(20, 22)), ("liver", range(15, 30)), ("any", range(40))])
def test_each_share_draws_its_slices_and_all_of_them(share, slices):
    items = drawn_slices([volume(shape=(40, 6, 5), label=organ())], shares={share: 2.0})
    assert {item["slice"] for item in items} == set(slices)


def test_shares_are_kept():
    # Slices with a tumour come from the share "tumor" alone: in the other two it is 1 slice of 200.
    label = organ(200, tumor=(100, 101), liver=(0, 200))
    items = drawn_slices(
        [volume(shape=(200, 6, 5), label=label)], 900, shares={"tumor": 0.5, "liver": 0.25, "any": 0.25}
    )
    assert 0.45 < np.mean([item["slice"] == 100 for item in items]) < 0.55


def test_volumes_are_drawn_alike_whatever_their_number_of_slices():
    volumes = [volume("long", (90, 6, 5), label=organ(90)), volume("short", (31, 6, 5), label=organ(31))]
    items = drawn_slices(volumes, shares={"liver": 1})
    assert 0.44 < np.mean([item["id"] == "short" for item in items]) < 0.56


def test_slices_far_from_the_organ_count_less():
    source = volume(shape=(90, 6, 5), label=organ(90, liver=(40, 50), tumor=(40, 40)), spacing=(2.5, 1.0, 1.0))
    chosen = np.array([item["slice"] for item in drawn_slices([source], 3000, shares={"any": 1})])
    near = (chosen >= 20) & (chosen < 70)  # 20 slices of 2.5 mm on either side of 40..49
    expected = 50 / (50 + 40 * FAR_WEIGHT)
    assert abs(near.mean() - expected) < 0.03


def test_binary_labels_have_no_tumour_share(caplog):
    label = np.minimum(organ(), 1)
    items = drawn_slices([volume(shape=(40, 6, 5), label=label)])
    assert "'tumor'" in caplog.text
    # Half "liver", half "any"; of the latter 15 of 40 slices are of the liver.
    assert 0.63 < np.mean([bool(item["label"].any()) for item in items]) < 0.75


def test_a_share_is_drawn_from_the_volumes_that_have_it():
    volumes = [volume("ill", (40, 6, 5), label=organ()), volume("well", (40, 6, 5), label=organ(tumor=(0, 0)))]
    assert {item["id"] for item in drawn_slices(volumes, 60, shares={"tumor": 1})} == {"ill"}
    assert {item["id"] for item in drawn_slices(volumes, 60, shares={"liver": 1})} == {"ill", "well"}


def test_slices_are_reproducible_with_a_random_transform():
    transform = Compose([RandFlipd(keys=["image", "label"], prob=0.5), RandGaussianNoised(keys="image", prob=0.5)])
    source = volume(shape=(40, 6, 5), label=organ())
    one, other = (SliceDataset(data=[source], seed=3, transform=transform) for _ in range(2))
    in_order = [one[k] for k in range(10)]
    assert all(same(other[k], in_order[k]) for k in reversed(range(10)))


@pytest.mark.parametrize("shares", [{"lesion": 1.0}, {"tumor": -1.0, "any": 2.0}, {"any": 0.0}, {}])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares"):
        SliceDataset(data=[volume()], seed=0, shares=shares)


# all


def test_volumes_of_the_cache_travel_as_paths_and_give_the_same_items(tmp_path):
    cases, arrays = [], {}
    for name in "ab":
        arrays[name] = volume(name, seed=ord(name), dtype=np.int16)
        for kind in ("image", "label"):
            path = tmp_path / f"{name}_{kind}.nii"
            nibabel.save(nibabel.Nifti1Image(getattr(arrays[name], kind), np.diag([1, 2, 3, 1])), path)
        cases.append({"id": name, "image": str(tmp_path / f"{name}_image.nii"), "label": str(path)})
    cache = VolumeCache(cases=cases, cache_dir=tmp_path / "cache", modality="ct", progress=False)
    patch = PatchDataset(data=cache, patch_size=(30, 8, 8), seed=0, label_padding=2)
    slices = SliceDataset(data=cache, seed=0, n_context=1, context_mm=3.0)
    whole = VolumeDataset(data=cache)
    for dataset in (patch, slices, whole):
        packed = pickle.dumps(dataset)
        assert len(packed) < 10_000
        for k in range(2):
            first, second = dataset[k], pickle.loads(packed)[k]
            assert same(first, second)
    source = arrays[whole[0]["id"]].image
    np.testing.assert_array_equal(whole[0]["image"][0], source.transpose(2, 1, 0)[:, ::-1, ::-1])  # RAS to SPL
    np.testing.assert_array_equal(slices[0]["image"][1], cache["ab".index(slices[0]["id"])].image[slices[0]["slice"]])


def test_uint16_becomes_a_type_torch_computes_with():
    assert patches([volume(dtype=np.uint16)], 1)[0]["image"].dtype == torch.int32


@pytest.mark.parametrize(
    "kind", [lambda v: PatchDataset(data=v, patch_size=(4, 4, 4), seed=0), lambda v: SliceDataset(data=v, seed=0)]
)
def test_training_needs_labels_and_volumes(kind):
    unlabelled = volume("case_7")
    unlabelled.label = None
    with pytest.raises(DataError, match="case_7: found no label"):
        kind([volume(), unlabelled])
    with pytest.raises(ValueError, match="no volumes"):
        kind([])


# whole volumes


def test_whole_volumes_come_in_order_with_their_geometry():
    volumes = [volume("a", seed=1, spacing=(5.0, 0.7, 0.8), dtype=np.int16), volume("b", seed=2)]
    volumes[1].label = None
    dataset = VolumeDataset(data=volumes)
    assert len(dataset) == 2
    batch = list_data_collate([dataset[0]])
    assert batch["id"] == ["a"]
    assert batch["image"].shape == batch["label"].shape == (1, 1, 20, 24, 28)
    assert batch["image"].dtype == torch.int16
    for key in ("image", "label"):
        np.testing.assert_allclose(batch[key].affine, np.diag([5.0, 0.7, 0.8, 1.0])[None])
        np.testing.assert_array_equal(batch[key][0, 0], getattr(volumes[0], key))
        assert batch[key].meta["filename_or_obj"] == ["a.tif"]
        np.testing.assert_allclose(batch[key].meta["original_affine"], np.diag([0.8, 0.7, 5.0, 1.0])[None])
    assert "label" not in dataset[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_a_whole_volume_goes_through_the_transform():
    dataset = VolumeDataset(data=[volume()], transform=ScaleIntensityRanged(keys="image", a_min=0, a_max=255))
    assert dataset[0]["image"].dtype == torch.float32
    assert dataset[0]["image"].max() <= 1


def test_images_and_labels_alone_are_cases(tmp_path):
    """As an application sets ``train#dataset#data``: neither ids nor groups, and the cache without its cases."""
    paths = {}
    for key, array in (("image", np.full((9, 8, 7), 3, np.uint8)), ("label", at((4, 4, 4), (9, 8, 7)))):
        paths[key] = str(tmp_path / f"{key}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), paths[key])
    cache = partial(VolumeCache, cache_dir=tmp_path / "cache", modality="scroll", progress=False)
    dataset = PatchDataset(data=[paths], cache=cache, patch_size=(4, 4, 4), seed=0)
    assert len(dataset) == 1 and dataset[0]["id"] == "image"
    assert VolumeDataset(data=[paths], cache=cache)[0]["label"].sum() == 1


@pytest.mark.parametrize("size", [(24, 28), (17, 40), (30, 21), (25, 29), (11, 12)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_slices_of_a_given_size_are_those_of_monai(size, dtype):
    volumes = [volume()]
    volumes[0].image = volumes[0].image.astype(dtype)
    plain, sized = (
        SliceDataset(data=volumes, seed=0, n_context=1, shares={"any": 1.0}, slice_size=wanted, image_padding=-99.5)
        for wanted in (None, size)
    )
    padding = -99.5 if dtype == np.float32 else -100
    for k in range(3):
        image, label = plain[k]["image"].float(), plain[k]["label"]
        assert torch.equal(sized[k]["image"].float(), ResizeWithPadOrCrop(size, value=padding)(image).as_tensor())
        assert torch.equal(sized[k]["label"], ResizeWithPadOrCrop(size)(label).as_tensor())
        assert sized[k]["label"].dtype == torch.uint8


def test_a_seed_for_what_is_done_to_a_batch():
    seeds = [item["seed"] for item in patches([volume()], 50)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert list_data_collate([{"seed": seed} for seed in seeds])["seed"].tolist() == seeds
