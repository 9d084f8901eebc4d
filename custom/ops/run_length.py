"""Run-length codes of masks, in Kaggle's format."""

import numpy as np

EMPTY = "1 0"
"""The code of an empty mask: a run of length 0."""


def encode(mask: np.ndarray) -> str:
    """Encode a ``(rows, columns)`` mask as ``"start length start length ..."``.

    Pixels are numbered from 1, column by column. Runs are maximal and in ascending order; an empty mask is
    :data:`EMPTY`.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0, append=0))
    starts, ends = changes[::2], changes[1::2]
    return " ".join(map(str, np.stack([starts + 1, ends - starts], 1).ravel().tolist())) or EMPTY


def decode(code: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode a ``(rows, columns)`` mask.

    Raises:
        ValueError: the code does not consist of pairs of integers, or its runs are not ascending, overlap or exceed the
            mask.
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
