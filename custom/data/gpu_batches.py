"""Batches that a GPU finishes one step ahead of training."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

Batch = dict[str, Any]


def finished_ahead(
    batches: Iterator[Batch], transform: Callable[[Batch], Batch] | None, device: torch.device
) -> Iterator[Batch]:
    """Move batches to a GPU and transform them there, each while the GPU trains on the one before.

    Copies come from pinned memory and, like the transform, go to a stream of their own: neither the host nor the
    training waits for them unless the GPU is late. Tensors of up to two dimensions (seeds, positions) stay on the host.
    ``transform`` must not wait for results (:mod:`custom.transforms.batch`).
    """
    stream = torch.cuda.Stream(device)
    ahead = None
    for batch in batches:
        with torch.cuda.stream(stream):
            batch = {key: _sent(value, device) for key, value in batch.items()}
            batch = batch if transform is None else transform(batch)
            finished = torch.cuda.Event()
            finished.record(stream)
        if ahead is not None:
            yield _handed_over(*ahead, device)
        ahead = batch, finished
    if ahead is not None:
        yield _handed_over(*ahead, device)


def _sent(value: Any, device: torch.device) -> Any:
    if not isinstance(value, torch.Tensor) or value.ndim <= 2:
        return value
    return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)


def _handed_over(batch: Batch, finished: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch, for the stream of the training, which waits for it; its memory is not reused before that is done."""
    training = torch.cuda.current_stream(device)
    training.wait_event(finished)
    for value in batch.values():
        if isinstance(value, torch.Tensor) and value.device.type == "cuda":
            value.record_stream(training)
    return batch
