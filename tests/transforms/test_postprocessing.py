import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import DataError
from custom.ops.components import betti_numbers, label_components
from custom.transforms.postprocessing import PostprocessSurfaced


def sheet():
    mask = np.zeros((1, 12, 30, 30), np.uint8)
    mask[0, 5:8] = 1
    return mask


def holed(radius):
    mask = sheet()
    y, x = np.indices(mask.shape[2:])
    mask[..., (y - 15) ** 2 + (x - 15) ** 2 < radius**2] = 0
    return mask


def damaged():
    """Probabilities of a sheet with a pinhole, a wider hole and a cavity, of a faint sheet and of a speck."""
    probability = 0.9 * sheet().astype(np.float32)
    probability[0, 5:8, 4, 4] = 0.1
    probability[0, 5:8, 20:22, 8:10] = 0.1
    probability[0, 6, 24, 24] = 0.1
    probability[0, 1, 3:5, 3:5] = 0.9
    probability[0, 10, :] = 0.35
    return probability


def assert_mended(mask, area):
    """One sheet without a hole or a cavity, but for a dent of ``area`` on either side where a hole was closed."""
    assert betti_numbers(mask[0]).tolist() == [0, 0, 0]
    assert (mask <= sheet()).all() and (sheet() - mask).sum() == 2 * area
    assert mask[0, 6].all()


ALL = {
    "threshold_low": 0.3,
    "threshold_high": 0.8,
    "min_component_voxels": 10,
    "pinhole_iterations": 1,
    "closing_radius": 3,
    "max_hole_area": 50,
    "max_cavity_voxels": None,
}


def test_all_steps_mend_a_damaged_sheet():
    mask = PostprocessSurfaced("pred", **ALL)({"pred": damaged()})["pred"]
    assert_mended(mask, area=4)


@pytest.mark.parametrize(
    ("off", "components", "tunnels", "cavities"),
    [
        ({"threshold_high": 0}, 2, 0, 0),  # the faint sheet stays
        ({"min_component_voxels": 0}, 2, 0, 0),  # the speck stays
        ({"pinhole_iterations": 0, "closing_radius": 0, "max_hole_area": 0}, 1, 2, 0),
        ({"pinhole_iterations": 0, "closing_radius": 0, "max_cavity_voxels": 0}, 1, 0, 1),
    ],
)
def test_each_step_can_be_left_out(off, components, tunnels, cavities):
    mask = PostprocessSurfaced("pred", **{**ALL, **off})({"pred": damaged()})["pred"][0]
    assert betti_numbers(mask).tolist() == [components - 1, tunnels, cavities]


def test_by_default_it_is_the_plain_threshold():
    probability = np.random.default_rng(0).random((1, 6, 6, 6)).astype(np.float32)
    assert (PostprocessSurfaced("pred")({"pred": probability})["pred"] == (probability >= 0.5)).all()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda a: MetaTensor(a, meta={"name": "x"})])
def test_the_container_is_kept(kind):
    given = {"pred": kind(damaged()), "other": 1}
    before = np.array(given["pred"])
    result = PostprocessSurfaced("pred", **ALL)(given)
    assert type(result["pred"]) is type(given["pred"])
    assert str(result["pred"].dtype).endswith("uint8") and result["pred"].shape == (1, 12, 30, 30)
    assert result["other"] == 1
    assert (np.array(given["pred"]) == before).all()  # nothing is changed in place
    if isinstance(result["pred"], MetaTensor):
        assert result["pred"].meta["name"] == "x"


def clean(mask, **options):
    """Of a mask that is taken for a probability."""
    return PostprocessSurfaced("pred", **options)({"pred": mask.astype(np.float32)})["pred"]


def test_thresholds_read_the_last_channel_and_eight_bits():
    probability = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 4, 8, 8)
    two = np.concatenate([1 - probability, probability])
    threshold = PostprocessSurfaced("pred", threshold_low=0.26)
    expected = probability >= 0.26
    assert (threshold({"pred": two})["pred"] == expected).all()
    assert (threshold({"pred": np.rint(255 * probability).astype(np.uint8)})["pred"] == expected).all()
    assert (threshold({"pred": torch.as_tensor(two).half()})["pred"].numpy() == expected).all()


def test_pinholes_are_plugged():
    assert (clean(holed(1), pinhole_iterations=1) == sheet()).all()
    assert (clean(holed(1), pinhole_iterations=0) == holed(1)).all()


def test_closing_takes_its_radius():
    assert_mended(clean(holed(2), closing_radius=3), area=9)
    assert betti_numbers(clean(holed(4), closing_radius=1)[0])[1] == 1
    assert (clean(holed(2), closing_radius=0) == holed(2)).all()


def test_closing_keeps_sheets_apart():
    mask = sheet()
    mask[0, 10:12] = 1
    assert label_components(clean(mask, closing_radius=3)[0])[1] == 2


def test_large_holes_are_patched_up_to_an_area():
    assert (clean(holed(7), max_hole_area=150) == sheet()).all()
    assert (clean(holed(7), max_hole_area=100) == holed(7)).all()
    assert (clean(holed(7), max_hole_area=0) == holed(7)).all()


def test_cavities_are_filled_up_to_a_size():
    mask = np.ones((1, 8, 8, 8), np.uint8)
    mask[0, 2:4, 2:4, 2:4] = 0
    for limit, filled in ((None, True), (8, True), (7, False), (0, False)):
        assert clean(mask, max_cavity_voxels=limit).all() == filled


def test_probabilities_have_four_axes():
    with pytest.raises(ValueError, match="D, H, W"):
        PostprocessSurfaced("pred")({"pred": np.zeros((12, 30, 30), np.uint8)})


def test_merged_sheets_are_split_up_to_a_threshold():
    probability = np.zeros((1, 14, 30, 30), np.float32)
    probability[0, 2:5] = probability[0, 8:11] = 0.9
    probability[0, 5:8, 10:13] = 0.65  # a bridge
    for options, count in (({}, 1), ({"split_threshold": 0.6}, 1), ({"split_threshold": 0.7}, 2)):
        mask = PostprocessSurfaced("pred", threshold_high=0.8, **options)({"pred": probability})["pred"]
        assert label_components(mask[0])[1] == count


def test_hysteresis_is_the_same_with_further_levels():
    generator = np.random.default_rng(0)
    probability = generator.random((1, 8, 9, 10)).astype(np.float32)
    expected = PostprocessSurfaced("pred", threshold_low=0.6, threshold_high=0.97)({"pred": probability})["pred"]
    split = PostprocessSurfaced("pred", threshold_low=0.6, threshold_high=0.97, split_threshold=0.99)
    assert (split({"pred": probability})["pred"] == expected).all()  # nothing here is large enough to be split
    assert split.on_device({"pred": probability})["pred"].max() == 6  # reached 0.6, 0.7, 0.8, 0.9, 0.97, 0.99


def test_tunnels_are_filled_up_to_a_radius():
    assert (clean(holed(3), tunnel_radius=3) == sheet()).all()
    assert (clean(holed(3), tunnel_radius=1) == holed(3)).all()


@pytest.mark.parametrize("scale", [1, 255])
def test_diffusion_closes_a_gap_before_the_threshold(scale):
    probability = (sheet() * scale).astype(np.uint8 if scale == 255 else np.float32)
    probability[0, 5:8, 15, 15] = 0
    mask = PostprocessSurfaced("pred", diffusion_steps=4)({"pred": probability})["pred"]
    assert (mask == sheet()).all()


@pytest.mark.parametrize("option", ["threshold_low", "threshold_high", "split_threshold"])
@pytest.mark.parametrize("value", [50, 1.01, -0.1])
def test_a_threshold_that_is_no_probability_is_refused(option, value):
    with pytest.raises(DataError, match=rf"{option}: found {value}, expected a probability from 0 to 1"):
        PostprocessSurfaced("pred", **{option: value})
