from itertools import groupby

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AdjustContrast, Compose

from custom.errors import DataError
from custom.transforms.augmentation import RandContrastd, RandNoised, RandPatchDropoutd, RandSheetCompressiond


def blanked(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.asarray(before != after)[0]


IMAGE = np.random.default_rng(0).random((1, 20, 24, 28)).astype(np.float32)


def dropout(**options) -> RandPatchDropoutd:
    options = {"holes": 1, "spatial_size": [4, 5, 6], "prob": 1.0} | options
    return RandPatchDropoutd("image", **options).set_random_state(0)


@pytest.mark.parametrize(("fill", "value"), [("mean", IMAGE.mean()), (-1.0, -1.0)])
def test_a_cuboid_is_filled(fill, value):
    result = np.asarray(dropout(fill=fill)({"image": IMAGE.copy()})["image"])
    changed = blanked(IMAGE, result)
    where = np.argwhere(changed)
    assert (where.max(0) - where.min(0) + 1).tolist() == [4, 5, 6]
    assert changed.sum() == 4 * 5 * 6
    np.testing.assert_allclose(result[0][changed], value, rtol=1e-6)


def test_number_and_size_are_drawn_within_their_ranges():
    transform = dropout(max_holes=3, max_spatial_size=[6, 7, 8], fill=2.0)
    sizes = {blanked(IMAGE, np.asarray(transform({"image": IMAGE.copy()})["image"])).sum() for _ in range(40)}
    assert max(sizes) <= 3 * 6 * 7 * 8
    assert max(sizes) > 6 * 7 * 8
    assert min(sizes) >= 4 * 5 * 6
    assert len(sizes) > 20


def test_dropout_leaves_input_label_and_prob_zero_alone():
    image, label = IMAGE.copy(), np.ones_like(IMAGE)
    result = dropout()({"image": image, "label": label})
    assert np.array_equal(image, IMAGE)
    assert result["label"] is label
    assert np.array_equal(dropout(prob=0.0)({"image": image})["image"], IMAGE)


def flat_item(axis: int = 0) -> dict[str, np.ndarray]:
    """Sheets 4 thick every 12 voxels; the label is the first two voxels of each, and the last sheet's is ignored."""
    place = np.arange(48) % 12
    image = np.where(place < 4, 110, 60).astype(np.uint8)
    label = np.where(place < 2, 1, 0).astype(np.uint8)
    label[36:] = 2
    shape = (48, 14, 16)
    item = {
        key: np.moveaxis(np.broadcast_to(line[:, None, None], shape), 0, axis)[None].copy()
        for key, line in (("image", image), ("label", label))
    }
    item["image"][0, 0, 0, 0] = 0  # the lowest value is the mask around the scroll, no gap
    return item


def runs(line: np.ndarray) -> list[tuple[int, int]]:
    return [(int(value), len(list(group))) for value, group in groupby(line)]


@pytest.mark.parametrize("axis", range(3))
def test_gaps_shrink_and_surfaces_stay(axis):
    item = flat_item(axis)
    result = RandSheetCompressiond(prob=1.0, strength=(0.6, 0.6))(item)
    image, label = (np.moveaxis(result[key][0], axis, 0) for key in ("image", "label"))
    assert image.dtype == np.uint8
    assert label.dtype == np.uint8
    assert result["label"].shape == item["label"].shape
    assert (label == label[:, :1, :1]).all()  # flat sheets stay flat
    surfaces = [length for value, length in runs(label[:, 0, 0]) if value == 1]
    between = [length for value, length in runs(label[:, 0, 0]) if value == 0]
    assert surfaces == [2, 2, 2]
    assert all(4 <= length < 10 for length in between[:2])
    bright = np.flatnonzero(label[:, 0, 0] == 1)
    assert (image[bright, 4:, 4:] > 85).all()  # the image went the same way
    assert label[0, 0, 0] == label[-1, 0, 0] == 2


def test_two_voxels_between_surfaces_stay():
    item = flat_item()
    item["label"][:] = 0
    item["label"][0, 20:22] = item["label"][0, 24:26] = 1
    item["image"][0, 1:] = 40
    item["image"][0, 20:22] = item["image"][0, 24:26] = 200
    result = RandSheetCompressiond(prob=1.0, strength=(0.9, 0.9))(item)["label"]
    assert [run for run in runs(result[0, :, 3, 3]) if run[0] != 2][1:-1] == [(1, 2), (0, 2), (1, 2)]


def test_the_strength_is_lowered_where_columns_would_slide_along_each_other():
    """Half of the volume holds sheets, half is a solid block: its columns must not part from the others."""
    item = flat_item()
    item["image"][0, :, :, 8:] = np.where(np.arange(48) % 12 < 11, 110, 60)[:, None, None]
    loose = RandSheetCompressiond(prob=1.0, strength=(0.6, 0.6), max_shear=100.0)(item)
    tight = RandSheetCompressiond(prob=1.0, strength=(0.6, 0.6), max_shear=0.2)(item)
    filled = [(result["label"] == 2).sum() for result in (item, tight, loose)]
    assert filled[0] < filled[1] < filled[2]


def test_no_gaps_no_change():
    item = {"image": np.full((1, 8, 9, 10), 5.0, np.float32), "label": np.zeros((1, 8, 9, 10), np.uint8)}
    item["label"][0, 3:5] = 1
    result = RandSheetCompressiond(prob=1.0)(item)
    assert np.array_equal(result["label"], item["label"])
    np.testing.assert_allclose(result["image"], item["image"])


@pytest.mark.parametrize("kind", [torch.from_numpy, MetaTensor])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_types_are_the_same_whether_it_happens_or_not(kind, prob):
    item = {key: kind(torch.from_numpy(value).numpy()) for key, value in flat_item().items()}
    before = {key: value.clone() for key, value in item.items()}
    result = RandSheetCompressiond(prob=prob)(item)
    assert type(result["image"]) is type(item["image"])
    assert type(result["label"]) is type(item["label"])
    assert result["image"].dtype == torch.uint8
    assert result["label"].dtype == torch.uint8
    assert all(torch.equal(item[key], before[key]) for key in item)
    assert torch.equal(result["label"], item["label"]) == (prob == 0)


def test_a_seed_decides_everything():
    def draw(seed: int) -> np.ndarray:
        chain = Compose([RandSheetCompressiond(prob=0.5), dropout(prob=0.5)]).set_random_state(seed)
        return np.stack([np.asarray(chain(flat_item())["image"]) for _ in range(4)])

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


@pytest.mark.parametrize("strength", [(0.2, 1.0), (-0.1, 0.5), (0.5, 0.2)])
def test_refuses_a_strength_that_would_fold(strength):
    with pytest.raises(ValueError, match="strength within"):
        RandSheetCompressiond(strength=strength)


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_contrast_is_monais(gamma):
    result = RandContrastd("image", gamma=(gamma, gamma), prob=1.0)({"image": torch.from_numpy(IMAGE)})["image"]
    np.testing.assert_allclose(result, AdjustContrast(gamma)(IMAGE), atol=1e-6)
    assert result.min() == IMAGE.min()
    assert result.max() <= IMAGE.max()


@pytest.mark.parametrize("gamma", [(0.0, 1.0), (1.5, 0.7)])
def test_contrast_refuses_what_is_no_range(gamma):
    with pytest.raises(DataError, match="range of positive numbers"):
        RandContrastd("image", gamma=gamma)


def test_noise_has_a_standard_deviation_up_to_the_given_one():
    transform = RandNoised("image", std=0.2, prob=1.0).set_random_state(0)
    image = torch.zeros(1, 30, 30, 30)
    found = [float(transform({"image": image})["image"].std()) for _ in range(200)]
    assert max(found) < 0.205
    assert np.percentile(found, [25, 50, 75]) == pytest.approx([0.05, 0.1, 0.15], abs=0.025)
    assert not image.any()
