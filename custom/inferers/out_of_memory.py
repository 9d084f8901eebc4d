"""Smaller batches when the GPU runs out of memory."""

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

_SAYINGS = (
    "out of memory",
    "can't allocate memory",  # the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "unable to find an engine to execute this computation",  # cuDNN, if none has room for its workspace
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the GPU or the CPU.

    Only torch's allocator has a type of its own for it; cuDNN and cuBLAS raise a plain ``RuntimeError``, cuDNN also one
    that calls an operation unsupported.
    """
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYINGS)


def predict_in_halves(
    predict: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, unit: str, inferer: Any
) -> torch.Tensor:
    """Return ``predict(batch)``; if the GPU runs out of memory, halve the batch, repeatedly if necessary.

    Args:
        predict: called with ``(n, ...)``, returns ``(n, ...)``.
        inferer: its ``sw_batch_size`` is reduced, so that later batches are smaller too.

    Raises:
        RuntimeError: memory does not suffice for a single item; see :func:`lacks_memory`.
    """
    try:
        return predict(batch)
    except RuntimeError as error:
        if len(batch) == 1 or not lacks_memory(error):
            raise
    # Outside of the except clause, which keeps the tensors of the failed call alive.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    logger.warning("out of GPU memory with %d %s at a time: trying %d", len(batch), unit, half)
    inferer.sw_batch_size = min(inferer.sw_batch_size, half)
    return torch.cat([predict_in_halves(predict, part, unit, inferer) for part in batch.split(half)])
