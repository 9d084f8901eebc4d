"""Run-length codes of masks, as Kaggle's competitions read them."""

import numpy as np

EMPTY = "1 0"
"""The code of an empty mask: no pixels from the first one on."""


def encode(mask: np.ndarray) -> str:
    """Code a ``(rows, columns)`` mask as ``"start length start length ..."``.

    Pixels are counted from 1, down the columns, column by column. Runs are as long as they can be and in ascending
    order; a mask without pixels is :data:`EMPTY`.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0, append=0))
    starts, ends = changes[::2], changes[1::2]
    return " ".join(map(str, np.stack([starts + 1, ends - starts], 1).ravel().tolist())) or EMPTY


def decode(code: str, shape: tuple[int, int]) -> np.ndarray:
    """The ``(rows, columns)`` mask of a code.

    Raises:
        ValueError: the code is not pairs of whole numbers, or its runs are not ascending, overlap or leave the mask.
    """
    numbers = np.array([int(word) for word in code.split()], np.int64)
    if not numbers.size or numbers.size % 2:
        raise ValueError(f"a run-length code is pairs of numbers, this one has {numbers.size}")
    flat = np.zeros(shape[0] * shape[1], bool)
    if code == EMPTY:
        return flat.reshape(shape)
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    ends = starts + lengths
    if (lengths < 1).any() or starts[0] < 0 or (starts[1:] < ends[:-1]).any() or ends[-1] > flat.size:
        raise ValueError(f"runs that ascend from 1 to {flat.size} without overlap expected, found {code[:60]!r}")
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    return flat.reshape(shape, order="F")
