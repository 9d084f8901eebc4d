import numpy as np
import pytest
import torch
from monai.transforms import Compose
from torch.utils.data import default_collate

from custom.ops.warp import sample_linear, sample_nearest, sample_surface, warp_coordinates
from custom.transforms.warp import PrepareWarpedBatch, RandWarpd

EVERYTHING = {
    "keys": ["image", "label"],
    "prob": 1.0,
    "rotate_range": [0.3, 0.2, 0.1],
    "scale_range": [0.3, 0.1, 0.2],
    "elastic_spacing": 6.0,
    "elastic_magnitude": [1.0, 2.0],
    "label_padding": 2,
}


def item(size=(10, 12, 14), seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 255, (1, *size), dtype=np.uint8))
    return {"image": image, "label": (image > 128).to(torch.uint8), "case": "a"}


def drawn(transform, n=300, size=(10, 12, 14)):
    """Parameters of many items: matrices (n, d, d), control points, shifts."""
    transform.set_random_state(0)
    rows = []
    for _ in range(n):
        transform.randomize(size)
        rows.append(transform.parameters)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("size", [(20, 16), (10, 12, 14)])
def test_image_and_label_are_read_once_at_the_drawn_coordinates(size):
    shift = {"slice_shift": 1.5} if len(size) == 3 else {}
    transform = RandWarpd(**EVERYTHING, **shift).set_random_state(7)
    before = item(size)
    after = transform(before)
    parts = {name: part[None] for name, part in transform.parameters.items()}
    coordinates = warp_coordinates(size, spacing=(6.0,) * len(size), **parts)
    assert torch.equal(after["image"], sample_linear(before["image"][None], coordinates)[0])
    assert torch.equal(after["label"], sample_nearest(before["label"][None], coordinates, padding_value=2)[0])
    assert after["image"].dtype == torch.float32
    assert after["label"].dtype == torch.uint8
    assert set(after["label"].unique().tolist()) == {0, 1, 2}
    assert after["case"] == "a"
    assert not torch.equal(after["image"], before["image"].float())


@pytest.mark.parametrize("padding", [2, None])
def test_a_surface_key_is_read_as_a_surface_and_leaves_the_others_alone(padding):
    settings = {**EVERYTHING, "label_padding": padding, "keys": ["label", "image", "mask"]}
    transform = RandWarpd(**settings, mode=["surface", "bilinear", "nearest"]).set_random_state(7)
    before = item()
    before["mask"] = before["label"]
    after = transform(before)
    parts = {name: part[None] for name, part in transform.parameters.items()}
    coordinates = warp_coordinates((10, 12, 14), spacing=(6.0,) * 3, **parts)
    expected = sample_surface(before["label"][None], coordinates, padding_value=padding)[0]
    assert torch.equal(after["label"], expected)
    assert torch.equal(after["image"], sample_linear(before["image"][None], coordinates)[0])
    assert torch.equal(after["mask"], sample_nearest(before["label"][None], coordinates, padding_value=padding)[0])
    assert not torch.equal(after["mask"], after["label"])


def test_the_same_seed_gives_the_same_item_and_another_seed_another():
    transform = RandWarpd(**EVERYTHING, slice_shift=1.0)
    first, second, other = (Compose([transform]).set_random_state(seed)(item()) for seed in (3, 3, 4))
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["label"], second["label"])
    assert not torch.equal(first["image"], other["image"])


def test_parameters_fill_their_ranges():
    parts = drawn(RandWarpd(**EVERYTHING, slice_shift=1.5))
    zoom = 1 / parts["matrix"].norm(dim=1)  # rotations keep the length of a column
    for axis, s in enumerate(EVERYTHING["scale_range"]):
        assert 1 - s <= zoom[:, axis].min() < 1 - 0.9 * s
        assert 1 + 0.9 * s < zoom[:, axis].max() <= 1 + s + 1e-6
    largest = parts["control"].abs().flatten(1).amax(1)
    assert largest.max() <= 2.0
    assert 0.8 < largest.min() < 1.2
    assert parts["shift"][..., 0].abs().max() == 0
    assert 1.4 < parts["shift"].abs().max() <= 1.5


def test_rotation_stays_in_its_range_about_one_axis():
    matrix = drawn(RandWarpd(keys=["image"], mode="bilinear", prob=1.0, rotate_range=[0.5, 0, 0]))["matrix"]
    assert torch.equal(matrix[:, 0], torch.tensor([1.0, 0, 0]).expand(300, 3))
    angles = torch.atan2(matrix[:, 2, 1], matrix[:, 1, 1])
    assert -0.5 <= angles.min() < -0.45
    assert 0.45 < angles.max() <= 0.5


@pytest.mark.parametrize("part", ["rotate", "scale", "elastic", "slice_shift"])
def test_each_part_has_its_own_probability(part):
    others = {f"{name}_prob": 0.0 for name in ("rotate", "scale", "elastic", "slice_shift") if name != part}
    parts = drawn(RandWarpd(**EVERYTHING, slice_shift=1.0, **others, **{f"{part}_prob": 0.25}))
    moved = {
        "rotate": (parts["matrix"] - torch.eye(3)).flatten(1).any(1),
        "scale": (parts["matrix"] - torch.eye(3)).flatten(1).any(1),
        "elastic": parts["control"].flatten(1).any(1),
        "slice_shift": parts["shift"].flatten(1).any(1),
    }
    assert 0.15 < moved[part].float().mean() < 0.35
    still = {"rotate": ("elastic", "slice_shift"), "scale": ("elastic", "slice_shift")}.get(part, ("rotate", "scale"))
    assert not any(moved[name].any() for name in still)


@pytest.mark.parametrize("mode", ["nearest", "surface"])
def test_an_item_that_is_not_warped_is_unchanged_but_for_its_type(mode):
    after = RandWarpd(**{**EVERYTHING, "prob": 0.0}, mode=["bilinear", mode])(item())
    assert torch.equal(after["image"], item()["image"].float())
    assert torch.equal(after["label"], item()["label"])


@pytest.mark.parametrize("mode", ["nearest", "surface"])
def test_a_deferred_warp_of_a_batch_equals_the_warp_of_its_items(mode):
    items = [item(seed=seed) for seed in range(6)]
    settings = {**EVERYTHING, "prob": 0.7, "slice_shift": 1.0, "mode": ["bilinear", mode]}
    now = RandWarpd(**settings).set_random_state(1)
    later = RandWarpd(**settings, deferred=True).set_random_state(1)
    expected = default_collate([now(one) for one in items])
    batch = default_collate([later(one) for one in items])
    assert torch.equal(batch["image"], torch.stack([one["image"] for one in items]))
    image, label = PrepareWarpedBatch(warp=later)(batch, "cpu")
    torch.testing.assert_close(image, expected["image"], rtol=0, atol=255e-5)
    assert (label != expected["label"]).float().mean() < 1e-3
    still = [torch.equal(a, b["image"].float()) for a, b in zip(expected["image"], items, strict=True)]
    assert any(still)
    assert all(torch.equal(label[i], items[i]["label"]) for i in range(6) if still[i])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elastic_magnitude": 3.0, "elastic_spacing": 6.0}, "fold"),
        ({"elastic_magnitude": 3.0, "elastic_spacing": [12.0, 6.0, 12.0]}, "fold"),
        ({"elastic_magnitude": [2.0, 1.0]}, "elastic_magnitude"),
        ({"scale_range": [0.2, 1.0, 0.2]}, "scale_range"),
        ({"mode": ["bilinear", "linear"]}, "mode"),
        ({"mode": ["bilinear", "surface"], "label_padding": 1}, "label_padding"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandWarpd(keys=["image", "label"], **arguments)


def test_slice_shift_needs_slices():
    with pytest.raises(ValueError, match="3-D"):
        RandWarpd(keys=["image", "label"], slice_shift=1.0)(item((8, 8)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["nearest", "surface"])
def test_the_batch_on_a_gpu_equals_the_batch_on_the_cpu(mode):
    transform = RandWarpd(**EVERYTHING, mode=["bilinear", mode], slice_shift=1.0, deferred=True).set_random_state(1)
    batch = default_collate([transform(item(seed=seed)) for seed in range(3)])
    image, label = PrepareWarpedBatch(warp=transform)(batch, "cpu")
    image_gpu, label_gpu = PrepareWarpedBatch(warp=transform)(batch, "cuda")
    torch.testing.assert_close(image_gpu.cpu(), image, rtol=0, atol=0.1)
    assert (label_gpu.cpu() != label).float().mean() < 1e-3
