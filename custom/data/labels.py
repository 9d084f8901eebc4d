"""Which voxels count as labels: the one place that decides, for the cache, scores and submissions.

A file's slope and intercept, or a resampling with nearest neighbours in floating point, leave 0.9999998 for a 1.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import DataError

TOLERANCE = 1.001e-3
"""What is this near to a whole number is read as it: 1e-3, and what float32 adds to that by rounding."""


def whole_numbers(array: np.ndarray, path: object, expected: str = "whole numbers") -> np.ndarray:
    """Labels or a mask as whole numbers; the type stays, except that bool becomes uint8.

    Args:
        array: of any real type and shape.
        path: the file to name in the error.
        expected: what to say in the error.

    Raises:
        DataError: a value is further from a whole number than :data:`TOLERANCE`; the message shows such values.
    """
    if array.dtype.kind != "f":
        return array.view(np.uint8) if array.dtype == bool else array
    rounded = np.rint(array)
    near = np.abs(array - rounded) <= TOLERANCE  # False for NaN
    if not near.all():
        # Of the first ones alone, so that a volume of probabilities is not sorted as a whole.
        shown = ", ".join(map(_digits, np.unique(array[~near][:10_000])[:10]))
        raise DataError.of(path, f"label values {shown}", expected)
    return rounded


def as_labels(array: np.ndarray, values: Sequence[int], path: object) -> np.ndarray:
    """Labels as uint8, all of them known.

    Args:
        array: of any real type and shape, not empty.
        values: the known label values, from 0 to 255.
        path: the file to name in the error.

    Raises:
        DataError: another value occurs; the message shows what was found.
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
    """With as many digits as tell it from a whole number."""
    return np.format_float_positional(value, precision=6, trim="-") if abs(value) < 1e9 else f"{value:g}"
