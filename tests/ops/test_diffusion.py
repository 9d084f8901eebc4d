import numpy as np
import pytest
import torch

from custom.ops.diffusion import diffuse_along_sheets


def sheets():
    """Two sheets three voxels thick, four voxels apart."""
    values = torch.zeros(20, 30, 30)
    values[6:9] = values[13:16] = 1.0
    return values


def test_a_gap_in_a_sheet_closes_but_not_the_space_between_sheets():
    values = sheets()
    values[6:9, 15, 15] = 0.1
    smooth = diffuse_along_sheets(values, 8)
    assert smooth[7, 15, 15] > 0.8
    assert smooth[7, 5, 5] > 0.95 and smooth[10:12].max() < 0.1
    assert (diffuse_along_sheets(sheets(), 8) - sheets()).abs().max() < 0.05


def test_it_does_not_depend_on_the_axes_but_for_rounding():
    values = torch.rand(9, 10, 11, generator=torch.Generator().manual_seed(0))
    expected = diffuse_along_sheets(values, 3).permute(2, 0, 1)
    assert torch.allclose(diffuse_along_sheets(values.permute(2, 0, 1), 3), expected, atol=1e-5)


def test_along_a_sheet_it_is_a_gaussian():
    """A small bump in a flat sheet spreads within the plane with a variance of n / 2 along each axis."""
    values = torch.zeros(20, 41, 41)
    values[9:12] = 0.9
    values[9:12, 20, 20] += 0.01
    plain = values.clone()
    plain[9:12, 20, 20] -= 0.01
    steps = 16
    spread = (diffuse_along_sheets(values, steps) - diffuse_along_sheets(plain, steps))[10].double().numpy()
    place = np.arange(41) - 20
    for axis in (0, 1):
        profile = spread.sum(axis=axis)
        assert (profile * place**2).sum() / profile.sum() == pytest.approx(steps / 2, rel=0.1)


def test_values_stay_in_their_range_and_constants_as_they_are():
    values = (torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    smooth = diffuse_along_sheets(values, 20)
    assert smooth.min() >= 0 and smooth.max() <= 1
    assert torch.equal(diffuse_along_sheets(torch.full((5, 6, 7), 0.3), 4), torch.full((5, 6, 7), 0.3))
    assert torch.equal(diffuse_along_sheets(values, 0), values)
