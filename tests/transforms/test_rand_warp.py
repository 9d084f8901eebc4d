import numpy as np
import pytest
import torch
from monai.transforms import Compose

from custom.ops.warp import cut_surface, sample_linear, sample_nearest, surface_amount, warp_coordinates
from custom.transforms.rand_warp import RandWarpd

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
    label = before["label"][None]
    expected = cut_surface(sample_linear(surface_amount(label), coordinates), label, coordinates, padding)
    assert torch.equal(after["label"], expected[0])
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


def test_slices_are_shifted_in_a_share_of_the_items():
    shifted = drawn(RandWarpd(**EVERYTHING, slice_shift=1.0, slice_shift_prob=0.25))["shift"].flatten(1).any(1)
    assert 0.15 < shifted.float().mean() < 0.35


@pytest.mark.parametrize("mode", ["nearest", "surface"])
def test_an_item_that_is_not_warped_is_unchanged_but_for_its_type(mode):
    after = RandWarpd(**{**EVERYTHING, "prob": 0.0}, mode=["bilinear", mode])(item())
    assert torch.equal(after["image"], item()["image"].float())
    assert torch.equal(after["label"], item()["label"])


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
