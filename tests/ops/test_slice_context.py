"""The rule for neighbouring slices against tables made by hand."""

import numpy as np
import pytest

from custom.ops.slice_context import context_offsets, slice_neighbours


@pytest.mark.parametrize(
    ("n_context", "context_mm", "spacing_mm", "expected"),
    [
        (0, None, None, [0]),
        (2, None, None, [-2, -1, 0, 1, 2]),
        (1, None, 5.0, [-1, 0, 1]),  # adjacent slices, whatever their distance
        (0, 3.0, 1.0, [0]),
        (1, 5.0, 1.0, [-5, 0, 5]),
        (2, 5.0, 2.0, [-5, -3, 0, 3, 5]),  # 2.5 slices: halves go away from the middle
        (2, 5.0, float(np.float32(0.8)), [-13, -6, 0, 6, 13]),  # as a NIfTI file has 0.8
        (2, 3.0, 2.5, [-2, -1, 0, 1, 2]),  # 1.2 and 2.4 slices
        (2, 1.0, 1.5, [-1, -1, 0, 1, 1]),  # 0.67 and 1.33 slices
        (1, 1.0, 5.0, [0, 0, 0]),  # slices too far apart: the nearest is the slice itself
    ],
)
def test_offsets(n_context, context_mm, spacing_mm, expected):
    assert context_offsets(n_context, context_mm, spacing_mm) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "n_context"),
        ((1, 0.0, 1.0), "context_mm"),
        ((1, float("nan"), 1.0), "context_mm"),
        ((1, 2.0), "distance between slices"),
        ((1, 2.0, 0.0), "distance between slices"),
        ((1, 2.0, float("nan")), "distance between slices"),
        ((1, 2.0, float("inf")), "distance between slices"),
    ],
)
def test_ill_offsets(arguments, message):
    with pytest.raises(ValueError, match=message):
        context_offsets(*arguments)


@pytest.mark.parametrize(
    ("index", "n_slices", "offsets", "expected"),
    [
        (3, 9, [-2, -1, 0, 1, 2], [1, 2, 3, 4, 5]),
        (0, 9, [-2, -1, 0, 1, 2], [0, 0, 0, 1, 2]),
        (8, 9, [-2, -1, 0, 1, 2], [6, 7, 8, 8, 8]),
        (1, 3, [-5, 0, 5], [0, 1, 2]),
        (0, 1, [-1, 0, 1], [0, 0, 0]),
        (2, 4, [0], [2]),
    ],
)
def test_neighbours(index, n_slices, offsets, expected):
    assert slice_neighbours(index, n_slices, offsets) == expected


@pytest.mark.parametrize(("index", "n_slices"), [(-1, 3), (3, 3), (0, 0)])
def test_slice_outside_the_volume(index, n_slices):
    with pytest.raises(IndexError, match=f"slice {index} of a volume of {n_slices}"):
        slice_neighbours(index, n_slices, [0])
