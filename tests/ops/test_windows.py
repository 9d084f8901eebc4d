"""The grid and the weights against MONAI's, and against numbers worked out by hand."""

import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

from custom.ops.windows import gaussian_weights, padding_to, window_starts


@pytest.mark.parametrize(
    ("size", "roi", "step", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),
        (4, 4, 3, [0]),
        (5, 4, 4, [0, 1]),
        (320, 136, 104, [0, 104, 184]),
    ],
)
def test_starts(size, roi, step, starts):
    assert window_starts(size, roi, step) == starts
    slices = dense_patch_slices((size,), (roi,), (step,))
    assert [window[0].start for window in slices] == starts


@pytest.mark.parametrize("roi", [(8, 12, 16), (7, 5, 9), (72, 136, 136)])
def test_weights_are_monais(roi):
    theirs = compute_importance_map(roi, mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(gaussian_weights(roi), theirs.float())


def test_padding_is_halved_the_smaller_half_first():
    assert padding_to((20, 100, 7), (72, 64, 10)) == [(26, 26), (0, 0), (1, 2)]
