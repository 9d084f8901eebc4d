import numpy as np
import pytest
import torch
from monai.losses.cldice import soft_skel
from scipy import ndimage
from skimage.morphology import skeletonize

from custom.ops.skeleton import medial_surface, soft_skeleton

SHAPES = [(2, 1, 7, 9, 8), (1, 2, 12, 10), (1, 1, 1, 6, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_soft_skeleton_and_its_gradient_equal_monai(shape, iterations):
    """Random values hold no ties, so even the choice among subgradients is the same."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.rand(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    result, expected = soft_skeleton(ours, iterations), soft_skel(theirs, iterations)
    assert torch.allclose(result, expected, atol=1e-12)
    (result * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_soft_skeleton_gradient_is_that_of_finite_differences():
    image = torch.rand(1, 1, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_skeleton(x, 2), (image,))


def test_soft_skeleton_of_a_mask_is_the_morphological_one():
    """Lantuejoul's formula, with scipy's binary morphology."""
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random((12, 16, 16)), 2) > 0.5
    expected, eroded = np.zeros_like(mask), mask
    for _ in range(4):
        smaller = ndimage.binary_erosion(eroded, border_value=1)
        expected |= eroded & ~ndimage.binary_dilation(smaller, np.ones((3, 3, 3)))
        eroded = smaller
    result = soft_skeleton(torch.from_numpy(mask)[None, None].float(), 3)[0, 0]
    assert np.array_equal(result.numpy(), expected)
    assert 0 < expected.sum() < mask.sum()


def test_tied_neighbours_share_no_more_than_the_gradient():
    """On a plateau each result's gradient must arrive exactly once: a constant image loses everything to iterations."""
    image = torch.full((1, 1, 6, 6, 6), 0.25, dtype=torch.float64, requires_grad=True)
    image.data[0, 0, 2:4] = 0.75
    soft_skeleton(image, 1).sum().backward()
    step = 1e-6
    with torch.no_grad():  # the directional derivative along a uniform shift exists although there are ties
        slope = (soft_skeleton(image + step, 1) - soft_skeleton(image - step, 1)).sum() / (2 * step)
    assert image.grad.sum().item() == pytest.approx(slope.item(), abs=1e-6)


def test_soft_skeleton_keeps_a_small_part_of_what_monai_keeps():
    def saved(function) -> int:
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        image = torch.rand(1, 1, 12, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function(image, 10)
        assert result.requires_grad
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    assert saved(soft_skeleton) < 0.1 * saved(soft_skel)


def test_medial_surface_is_the_union_over_slices_of_each_direction():
    mask = ndimage.gaussian_filter(np.random.default_rng(1).random((10, 14, 12)), 1.5) > 0.5
    expected = np.zeros_like(mask)
    for index in np.ndindex(*mask.shape):
        z, y, x = index
        expected[index] = any(
            (skeletonize(mask[z])[y, x], skeletonize(mask[:, y])[z, x], skeletonize(mask[:, :, x])[z, y])
            if mask[index]
            else (False,)
        )
    assert np.array_equal(medial_surface(mask), expected)


def test_medial_surface_of_a_sheet_is_a_sheet():
    """A plate 5 thick: every column through it meets its medial surface, away from the rim in the middle alone."""
    mask = np.zeros((15, 20, 20), dtype=np.uint8)
    mask[5:10] = 1
    medial = medial_surface(mask)
    assert medial.dtype == bool
    assert not (medial & (mask == 0)).any()
    inner = medial[:, 4:-4, 4:-4]
    assert inner[7].all()
    assert inner.any(axis=0).all()


def test_medial_surface_of_nothing():
    assert not medial_surface(np.zeros((4, 5, 6), dtype=bool)).any()
