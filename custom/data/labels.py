"""Conversion of voxels to labels, for the cache, scores and submissions.

Labels that are not exactly integers, such as 0.9999998, result from a header's slope or from resampling in floating
point.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import DataError

TOLERANCE = 1.001e-3
"""Distance from an integer up to which values are rounded: 1e-3 plus the rounding error of float32."""


def whole_numbers(array: np.ndarray, path: object, expected: str = "whole numbers") -> np.ndarray:
    """Round labels or a mask of any real type to integers; the type stays, except that bool becomes uint8.

    Raises:
        DataError: a value is further from an integer than :data:`TOLERANCE`; the message shows such values.
    """
    if array.dtype.kind != "f":
        return array.view(np.uint8) if array.dtype == bool else array
    rounded = np.rint(array)
    near = np.abs(array - rounded) <= TOLERANCE  # False for NaN
    if not near.all():
        # Only of the first values, so that a volume of probabilities is not sorted completely.
        shown = ", ".join(map(_digits, np.unique(array[~near][:10_000])[:10]))
        raise DataError.of(path, f"label values {shown}", expected)
    return rounded


def as_labels(array: np.ndarray, values: Sequence[int], path: object) -> np.ndarray:
    """Convert labels of any real type to uint8, and check that all are among ``values``, from 0 to 255.

    Raises:
        DataError: another value occurs; the message shows the values found.
    """
    names = ", ".join(map(str, sorted(values)))
    array = whole_numbers(array, path, f"whole numbers ({names})")
    fits = array.dtype == np.uint8 or (array.min() >= 0 and array.max() <= 255)
    if fits:
        known = np.zeros(256, bool)
        known[list(values)] = True
        labels = array.astype(np.uint8, copy=False)
        if known[labels].all():
            return labels
    shown = ", ".join(f"{value:g}" for value in np.unique(array)[:10])
    raise DataError.of(path, f"label values {shown}", f"only {names}")


def _digits(value: float) -> str:
    """Format with as many digits as distinguish the value from an integer."""
    return np.format_float_positional(value, precision=6, trim="-") if abs(value) < 1e9 else f"{value:g}"
