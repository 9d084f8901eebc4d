"""Neighbouring slices of a 2.5-D network, for training and inference."""

import math
from collections.abc import Sequence

from ..errors import DataError


def context_offsets(n_context: int, context_mm: float | None = None, spacing_mm: float | None = None) -> list[int]:
    """Return the offsets of the ``2 * n_context + 1`` slices that a network sees, in slices.

    Args:
        n_context: number of slices on each side.
        context_mm: distance between them in mm; the nearest slices are used (halves are rounded outwards), which is the
            slice itself if slices are further apart than twice the distance. None: adjacent slices.
        spacing_mm: spacing of the volume's slices in mm; needed with ``context_mm``.

    Returns:
        the offsets in ascending order, such as ``[-2, -1, 0, 1, 2]``.

    Raises:
        ValueError: ``n_context`` is negative, or ``context_mm`` or the required spacing is not positive.
    """
    if n_context < 0:
        raise DataError(f"n_context must be 0 or more, found {n_context}")
    if context_mm is None:
        return list(range(-n_context, n_context + 1))
    if not context_mm > 0:
        raise DataError(f"context_mm must be positive, found {context_mm}")
    if spacing_mm is None or not (spacing_mm > 0 and math.isfinite(spacing_mm)):
        raise ValueError(f"context in mm needs the distance between slices in mm, found {spacing_mm}")
    above = [math.floor(k * context_mm / spacing_mm + 0.5 + 1e-4) for k in range(1, n_context + 1)]
    return [-offset for offset in reversed(above)] + [0, *above]


def slice_neighbours(index: int, n_slices: int, offsets: Sequence[int]) -> list[int]:
    """Return the indices of the slices at ``offsets`` from slice ``index``; beyond the ends the last slice is repeated.

    Raises:
        IndexError: ``index`` is not a slice of the volume.
    """
    if not 0 <= index < n_slices:
        raise IndexError(f"slice {index} of a volume of {n_slices}")
    return [min(max(index + offset, 0), n_slices - 1) for offset in offsets]
