"""Smaller batches where a GPU's memory runs out."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


def predict_in_halves(
    predict: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    unit: str,
    smaller: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """``predict(batch)``; where the GPU's memory does not suffice, half of the batch at a time, and so on.

    Args:
        predict: called with ``(n, ...)``, returns ``(n, ...)``.
        batch: of at least one.
        unit: what there are n of, for the warning.
        smaller: told the new size of a batch.

    Raises:
        torch.OutOfMemoryError: one alone is too much.
    """
    try:
        return predict(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Out of the except clause, which would keep what the failed call holds.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    logger.warning("out of GPU memory with %d %s at a time: trying %d", len(batch), unit, half)
    if smaller is not None:
        smaller(half)
    return torch.cat([predict_in_halves(predict, part, unit, smaller) for part in (batch[:half], batch[half:])])
