"""Smaller batches when the GPU runs out of memory."""

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
    """Return ``predict(batch)``; if the GPU runs out of memory, halve the batch, repeatedly if necessary.

    Args:
        predict: called with ``(n, ...)``, returns ``(n, ...)``.
        batch: at least one item.
        unit: name of the items, for the warning.
        smaller: called with the new batch size.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for a single item.
    """
    try:
        return predict(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside of the except clause, which keeps the tensors of the failed call alive.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    logger.warning("out of GPU memory with %d %s at a time: trying %d", len(batch), unit, half)
    if smaller is not None:
        smaller(half)
    return torch.cat([predict_in_halves(predict, part, unit, smaller) for part in (batch[:half], batch[half:])])
