"""Arrays that torch accepts."""

import numpy as np
from numpy.typing import DTypeLike


def contiguous(array: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
    """Return the array in C order with positive strides, copied if necessary.

    To NumPy, a view whose reversed axes all have length 1 is contiguous although it has a negative stride, which
    ``torch.from_numpy`` refuses.
    """
    array = np.ascontiguousarray(array, dtype)
    return array.copy() if min(array.strides, default=0) < 0 else array
