"""Measurements of training: time per step, waiting for data, memory."""

import time

import torch
from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..system.memory import resident_bytes

GIB = 2**30


@without_effect()
class Resources:
    """Measures each epoch, for :class:`History` and :class:`TensorBoard`.

    ``engine.state.resources`` then holds:

    - ``seconds_per_step``: mean time of an iteration, including data loading, without validation;
    - ``data_wait``: fraction of that time spent waiting for batches;
    - ``memory_gib``: main memory of this process and its workers, without mapped files;
    - ``gpu_memory_gib``: peak GPU memory reserved by torch, on CUDA.

    List it before the ``ValidationHandler``, whose memory is not counted.

    Example: ``{"_target_": "custom.handlers.Resources"}``
    """

    def __init__(self) -> None:
        self._epoch_started = self._wait_started = self._ended = self._waited = 0.0
        self._steps = 0

    def attach(self, engine: Engine) -> None:
        engine.state.resources = {}
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_waiting)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._end_waiting)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _start_epoch(self, engine: Engine) -> None:
        self._epoch_started, self._waited, self._steps = time.monotonic(), 0.0, 0
        if _on_gpu(engine):
            torch.cuda.reset_peak_memory_stats()

    def _start_waiting(self, _: Engine) -> None:
        self._wait_started = time.monotonic()

    def _end_waiting(self, _: Engine) -> None:
        self._waited += time.monotonic() - self._wait_started

    def _end_step(self, _: Engine) -> None:
        self._ended = time.monotonic()
        self._steps += 1

    def _report(self, engine: Engine) -> None:
        if self._steps == 0:  # resumed after the epoch's last step
            engine.state.resources = {}
            return
        seconds = self._ended - self._epoch_started
        engine.state.resources = {
            "seconds_per_step": round(seconds / self._steps, 4),
            "data_wait": round(self._waited / seconds, 4),
            "memory_gib": round(resident_bytes() / GIB, 3),
        }
        if _on_gpu(engine):
            engine.state.resources["gpu_memory_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 3)


def _on_gpu(engine: Engine) -> bool:
    return torch.device(getattr(engine.state, "device", "cpu")).type == "cuda"
