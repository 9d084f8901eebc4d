import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import euler_number

from scripts.phantoms import scroll_phantom

from custom.ops.warp import (
    control_lattice_shape,
    cut_surface,
    largest_elastic_magnitude,
    rotation_matrix,
    sample_linear,
    sample_nearest,
    surface_amount,
    warp_coordinates,
)


def sample_surface(label, coordinates, padding_value=None):
    return cut_surface(sample_linear(surface_amount(label), coordinates), label, coordinates, padding_value)


def random_image(size, batch=1, channels=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((batch, channels, *size), dtype=np.float32))


def random_warp(size, batch=1, spacing=5.0, seed=0):
    """Matrix, control points and (in 3-D) shifts of one strong warp for each item of a batch."""
    rng = np.random.default_rng(seed)
    dims = len(size)
    angles = rng.uniform(-0.5, 0.5, (batch, 1 if dims == 2 else 3))
    matrix = np.stack([rotation_matrix(a) @ np.diag(rng.uniform(0.7, 1.3, dims)) for a in angles])
    control = rng.uniform(-2, 2, (batch, dims, *control_lattice_shape(size, (spacing,) * dims)))
    parts = {"matrix": matrix, "control": control}
    if dims == 3:
        parts["shift"] = rng.uniform(-1.5, 1.5, (batch, size[0], 3)) * [0, 1, 1]
    return {key: torch.from_numpy(part).float() for key, part in parts.items()} | {"spacing": (spacing,) * dims}


def composed_with_scipy(size, matrix, control, spacing, shift=None):
    """The definition of a warp, voxel by voxel and in float64, with scipy's own cubic B-spline."""
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in size], indexing="ij"))
    centre = (np.array(size) - 1).reshape(-1, *[1] * len(size)) / 2
    knots = grid / np.reshape(spacing, centre.shape) + 1
    elastic = np.stack([ndimage.map_coordinates(c.double().numpy(), knots, order=3, prefilter=False) for c in control])
    moved = grid - centre + elastic
    if shift is not None:
        moved += shift.double().numpy().T[:, :, None, None]
    return np.einsum("ij,j...->i...", matrix.double().numpy(), moved) + centre


@pytest.mark.parametrize("size", [(7, 10), (5, 8, 9)])
def test_identity_is_exact(size):
    coordinates = warp_coordinates(size, torch.eye(len(size))[None])
    expected = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in size], indexing="ij"))[None]
    assert torch.equal(coordinates, expected)
    label = torch.randint(0, 3, (1, 1, *size), dtype=torch.uint8)
    assert torch.equal(sample_nearest(label, coordinates, padding_value=7), label)
    image = 255 * random_image(size)
    torch.testing.assert_close(sample_linear(image, coordinates), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("axis", "plane"), [(0, (3, 4)), (1, (4, 2)), (2, (2, 3))])
def test_quarter_turn_equals_rot90(axis, plane):
    angles = [0.0, 0.0, 0.0]
    angles[axis] = math.pi / 2
    coordinates = warp_coordinates((8, 8, 8), torch.tensor(rotation_matrix(angles))[None])
    image = random_image((8, 8, 8))
    label = (image * 3).to(torch.uint8)
    torch.testing.assert_close(sample_linear(image, coordinates), torch.rot90(image, -1, plane), rtol=0, atol=1e-5)
    assert torch.equal(sample_nearest(label, coordinates, padding_value=9), torch.rot90(label, -1, plane))


def test_quarter_turn_in_2d_equals_rot90():
    coordinates = warp_coordinates((8, 8), torch.tensor(rotation_matrix([math.pi / 2]))[None])
    image = random_image((8, 8))
    torch.testing.assert_close(sample_linear(image, coordinates), torch.rot90(image, -1, (2, 3)), rtol=0, atol=1e-5)


def test_scaling_agrees_with_scipy():
    size = (9, 12, 10)
    image, scale = random_image(size), np.array([1.3, 0.8, 1.1])
    ours = sample_linear(image, warp_coordinates(size, torch.from_numpy(np.diag(scale)).float()[None]))
    centre = (np.array(size) - 1) / 2
    shift = centre - scale * centre
    theirs = ndimage.affine_transform(image[0, 0].numpy(), np.diag(scale), shift, order=1, mode="nearest")
    np.testing.assert_allclose(ours[0, 0], theirs, atol=1e-5)


@pytest.mark.parametrize("size", [(21, 17), (11, 14, 13)])
def test_everything_at_once_agrees_with_scipy_on_the_composed_coordinates(size):
    warp = random_warp(size)
    expected = composed_with_scipy(size, **{k: v if k == "spacing" else v[0] for k, v in warp.items()})
    coordinates = warp_coordinates(size, **warp)
    np.testing.assert_allclose(coordinates[0], expected, atol=2e-5)

    image = random_image(size, channels=2)
    labels = (image * 4).to(torch.uint8)
    ours, ours_nearest = sample_linear(image, coordinates), sample_nearest(labels, coordinates)
    for channel in range(2):
        theirs = ndimage.map_coordinates(image[0, channel].numpy(), expected, order=1, mode="nearest")
        np.testing.assert_allclose(ours[0, channel], theirs, atol=5e-5)
        theirs = ndimage.map_coordinates(labels[0, channel].numpy(), expected, order=0, mode="nearest")
        np.testing.assert_array_equal(ours_nearest[0, channel], theirs)


def test_outside_the_label_is_the_padding_value_and_nothing_else_is_new():
    size = (10, 12, 14)
    warp = random_warp(size, seed=3)
    label = torch.full((1, 1, *size), 5, dtype=torch.uint8)
    coordinates = warp_coordinates(size, **warp)
    out = sample_nearest(label, coordinates, padding_value=2)
    beyond = torch.stack([(c < -0.5) | (c > n - 0.5) for c, n in zip(coordinates[0], size, strict=True)]).any(0)
    assert 0.05 < beyond.float().mean() < 0.95
    assert torch.equal(out[0, 0], torch.where(beyond, 2, 5).to(torch.uint8))


@pytest.fixture(scope="module")
def sheets():
    """Label of a scroll phantom with ignored clouds, (1, 1, 48, 64, 64) of {0, 1, 2}."""
    label = scroll_phantom(seed=1, index=3, size=64, ignore=0.2)[1]
    return torch.from_numpy(label[:48])[None, None]


def bent(size, seed):
    """A rotation about every axis, a scaling and an elastic deformation as training draws them."""
    rng = np.random.default_rng(seed)
    matrix = rotation_matrix(rng.uniform(-0.26, 0.26, 3)) / rng.uniform(0.9, 1.1, 3)
    control = rng.uniform(-4, 4, (1, 3, *control_lattice_shape(size, (32, 32, 32))))
    return warp_coordinates(
        size, torch.tensor(matrix[None]).float(), control=torch.tensor(control).float(), spacing=(32, 32, 32)
    )


def holes(label):
    """Each hole through a sheet lowers the Euler number by one."""
    return -euler_number((label[0, 0] == 1).numpy(), connectivity=1)


def test_a_thin_surface_is_not_punctured_and_keeps_its_volume(sheets):
    assert holes(sheets) < 20
    nearest_holes = surface_holes = 0
    for seed in range(4):
        coordinates = bent(sheets.shape[2:], seed)
        nearest = sample_nearest(sheets, coordinates, padding_value=2)
        surface = sample_surface(sheets, coordinates, padding_value=2)
        assert surface.dtype == torch.uint8
        assert torch.equal(surface == 2, nearest == 2)
        assert (surface <= 2).all()
        assert (surface == 1).sum().item() == pytest.approx((nearest == 1).sum().item(), rel=0.03)
        nearest_holes += holes(nearest)
        surface_holes += holes(surface)
    assert nearest_holes > 400
    assert surface_holes < nearest_holes / 8


@pytest.mark.parametrize("size", [(160, 170), (40, 44, 36)])
def test_a_surface_is_nearer_to_the_true_one_than_its_nearest_voxels(size):
    """Shells two voxels thick have a formula, and so has what a warp makes of them."""

    def shells(places):
        centre = np.reshape([19.3, 23.1, 16.6][: len(size)], (-1, *[1] * len(size)))
        return torch.from_numpy(np.linalg.norm(places - centre, axis=0) % 8 < 2)

    label = shells(np.indices(size)).to(torch.int16)[None, None]
    angles = [0.2, -0.15, 0.1] if len(size) == 3 else [0.2]
    matrix = torch.tensor(rotation_matrix(angles)) * 0.95
    coordinates = warp_coordinates(size, matrix[None])
    inside = sample_nearest(torch.ones_like(label), coordinates, padding_value=0)[0, 0] == 1
    truth = shells(coordinates[0].double().numpy())[inside]

    def dice(read):
        read = read[0, 0][inside] == 1
        return (2 * (read & truth).sum() / (read.sum() + truth.sum())).item()

    surface = sample_surface(label, coordinates, padding_value=0)
    assert surface.dtype == torch.int16
    assert not surface[0, 0][~inside].any()
    assert dice(surface) > dice(sample_nearest(label, coordinates)) + 0.04


@pytest.mark.parametrize("size", [(20, 1), (9, 8, 10)])
def test_a_surface_read_at_its_own_voxels_is_unchanged_even_noise(size):
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (2, 1, *size), dtype=np.uint8))
    coordinates = warp_coordinates(size, torch.eye(len(size)).expand(2, -1, -1))
    for padding_value in (None, 2):
        assert torch.equal(sample_surface(label, coordinates, padding_value), label)


def test_what_is_ignored_takes_no_side():
    """Half a voxel past the end of what is known, a sheet goes on as far as its nearest voxel does, and no further."""
    label = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    label[..., 7:9, :] = 1
    label[..., 10:] = 2
    coordinates = warp_coordinates((16, 16), torch.eye(2)[None]) + torch.tensor([0.0, 0.4]).view(1, 2, 1, 1)
    assert torch.equal(sample_surface(label, coordinates), sample_nearest(label, coordinates))


def test_a_batch_is_its_items():
    size = (6, 9, 8)
    warp = random_warp(size, batch=3)
    image = random_image(size, batch=3, channels=2)
    whole = sample_linear(image, warp_coordinates(size, **warp))
    for i in range(3):
        one = {key: value if key == "spacing" else value[i : i + 1] for key, value in warp.items()}
        alone = sample_linear(image[i : i + 1], warp_coordinates(size, **one))
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=0, atol=1e-5)


def test_labels_of_more_than_2_to_the_24_voxels_are_indexed_exactly():
    shape = (3, 2500, 2500)
    label = torch.zeros(1, 1, *shape, dtype=torch.int16)
    label[0, 0, 2, 2499] = torch.arange(2500, dtype=torch.int16)
    x = torch.arange(2500.0)
    coordinates = torch.stack([torch.full_like(x, 2), torch.full_like(x, 2499), x]).view(1, 3, 1, 1, -1)
    assert torch.equal(sample_nearest(label, coordinates).flatten(), torch.arange(2500, dtype=torch.int16))


def jacobian_determinants(coordinates):
    """(D-1, H-1, W-1) determinants of forward differences of (1, 3, D, H, W) coordinates."""
    c = coordinates[0]
    core = c[:, :-1, :-1, :-1]
    columns = [c[:, 1:, :-1, :-1] - core, c[:, :-1, 1:, :-1] - core, c[:, :-1, :-1, 1:] - core]
    return torch.linalg.det(torch.stack(columns, -1).permute(1, 2, 3, 0, 4))


def worst_folding(magnitude, spacing):
    """The smallest Jacobian over random lattices of extreme control points, and one made to squeeze every axis."""
    size = (24, 24, 24)
    shape = (1, 3, *control_lattice_shape(size, (spacing,) * 3))
    signs = [torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(s)) * 2.0 - 1 for s in range(20)]
    squeeze = torch.ones(shape)
    squeeze[0, 0, 3:], squeeze[0, 1, :, 3:], squeeze[0, 2, :, :, 3:] = -1, -1, -1
    warps = [
        warp_coordinates(size, torch.eye(3)[None], control=magnitude * s, spacing=(spacing,) * 3)
        for s in [*signs, squeeze]
    ]
    return min(jacobian_determinants(w).min().item() for w in warps)


def test_the_largest_elastic_magnitude_does_not_fold():
    bound = largest_elastic_magnitude(8.0)
    assert 0 < worst_folding(bound, 8.0) < 0.2
    assert worst_folding(2 * bound, 8.0) < 0


def test_linear_sampling_stays_within_the_range_of_each_item():
    """The weights of ``grid_sample`` sum to 1 only up to rounding: 255 everywhere is read as 255.00003."""
    size = (8, 8, 8)
    image = torch.stack([torch.full((1, *size), 255.0), torch.full((1, *size), 7.3), random_image(size)[0] - 2])
    coordinates = torch.rand((3, 3, *size), generator=torch.Generator().manual_seed(0)) * 8 - 0.5
    grid = (coordinates.flip(1).movedim(1, -1) + 0.5) / 4 - 1
    assert (
        torch.nn.functional.grid_sample(image[:1], grid[:1], align_corners=False, padding_mode="border") > 255
    ).any()
    for item, read in zip(image, sample_linear(image, coordinates), strict=True):
        assert item.min() <= read.min() and read.max() <= item.max()
