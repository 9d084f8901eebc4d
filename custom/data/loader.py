"""Loaders of training batches as an endless stream, and of validation volumes, that report errors instead of hanging.

Processes with threads (of CUDA, gcsfs, zarr) cannot be forked safely, so that workers are started in other ways.
"""

import atexit
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from monai.transforms import Compose
from torch.utils.data import DataLoader, Dataset

from ..configuration import without_effect
from ..errors import DataError, find_data_error
from ..system import distributed
from ..system.memory import usable_cores
from ..system.processes import local_processes
from .gpu_batches import finished_ahead

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps tensors that worker processes pass on; containers often have only 64 MiB."""
SHARED_MEMORY_SHARE = 0.8
JOIN_S = 10.0


class LoaderError(RuntimeError):
    """No batch arrived, since workers hang or were killed. The message says what to change."""


@without_effect("num_workers", "prefetch_factor", "timeout_s", "device")
class StreamLoader:
    """Training batches as an endless stream: batch s holds the dataset's items from ``s * batch_size`` on.

    With several ranks, batch s of rank r is the r-th part of the ``world_size * batch_size`` items of step s, so that
    all ranks together train on the same items as a single rank with the larger batch.

    Item k of the dataset must depend on k alone (:class:`PatchDataset`, :class:`SliceDataset`). The stream is then the
    same, bit for bit, for any ``num_workers``, and can be resumed at any step. Also list the loader as a handler of the
    trainer: it then starts at the trainer's iteration, so that a resumed run gets exactly the batches of an
    uninterrupted one. Iterating again continues the stream.

    Workers make the items, and ``transform`` finishes the batch: in the worker too, or on the training's GPU, one step
    ahead of training (:mod:`custom.data.gpu_batches`). A process uses no more workers than cores beside its own, and
    no more than shared memory allows; each, or the thread without workers, has one thread of torch.

    Example: ``{"_target_": "custom.data.StreamLoader", "dataset": "@train#dataset", "batch_size": 8, "num_workers":
    4}``

    Args:
        dataset: item k for any k >= 0, a dictionary of tensors and plain values.
        batch_size: items per batch of each rank.
        num_workers: number of worker processes; with 0 a thread of this process prepares batches.
        prefetch_factor: number of batches that each worker prepares in advance.
        timeout_s: seconds to wait for a batch before raising an error.
        transform: of a whole batch, such as a :class:`custom.transforms.BatchCompose`.
        device: the training's; only a CUDA device makes a difference.

    Raises:
        DataError: ``batch_size`` is below 1, or the dataset's transform and ``transform`` share a transform; also as
            raised by the dataset, in whichever process.
        LoaderError: no batch arrived for ``timeout_s`` seconds, or a worker was killed.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        batch_size: int,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        timeout_s: float = 300.0,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise DataError.of("batch_size", str(batch_size), "1 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.timeout_s = timeout_s
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.transform = transform
        _refuse_twice(getattr(dataset, "transform", None), transform)
        self.device = torch.device(device)
        self.step = 0
        """Index of the next batch."""

    def __len__(self) -> int:
        """Return the number of batches in one pass over the dataset, for trainers without ``epoch_length``."""
        return max(1, len(self.dataset) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first = self.step
        on_gpu = self.device.type == "cuda"
        made = _Batches(self.dataset, None if on_gpu else self.transform)
        workers, prefetch = self._affordable_workers(made)
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        loader = DataLoader(
            made,
            batch_size=None,
            sampler=_step_indices(first, self.batch_size, self.rank, self.world_size),
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            multiprocessing_context=start_method() if workers else None,
            worker_init_fn=_ignore_interrupts if workers else None,
            timeout=self.timeout_s if workers else 0,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # else the global generator is used, which changes training
        )
        batches = _from_workers(loader, self.timeout_s) if workers else _prefetch(loader, prefetch, self.timeout_s)
        with closing(batches):
            ready = finished_ahead(batches, self.transform, self.device) if on_gpu else batches
            for step, batch in enumerate(ready, start=first + 1):
                self.step = step
                yield batch

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, so that the stream starts at its iteration."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._set_step)

    def _set_step(self, engine: Engine) -> None:
        self.step = engine.state.iteration

    def _affordable_workers(self, made: Dataset) -> tuple[int, int]:
        """Number of workers and prefetch factor for which cores and shared memory suffice."""
        beside = max(1, usable_cores() // local_processes() - 1)
        allowed = min(self.num_workers, beside)
        if allowed < self.num_workers:
            logger.info("num_workers=%d: using %d, as many as cores beside the training's", self.num_workers, allowed)
        free = shared_memory_free()
        if allowed == 0 or free is None:
            return allowed, self.prefetch_factor
        sample = made[[(self.step * self.world_size + self.rank) * self.batch_size]]
        if isinstance(sample, DataError):
            raise sample
        size = self.batch_size * tensor_bytes(sample)
        workers, prefetch = plan_workers(allowed, self.prefetch_factor, size, free)
        if (workers, prefetch) != (allowed, self.prefetch_factor):
            logger.warning(
                "%s has %.0f MiB free, too little for num_workers=%d with prefetch_factor=%d and batches of %.1f MiB:"
                " using num_workers=%d with prefetch_factor=%d",
                *(SHARED_MEMORY, free / 2**20, allowed, self.prefetch_factor, size / 2**20, workers, prefetch),
            )
        return workers, prefetch


@without_effect("timeout_s")
class VolumeLoader:
    """Items of a dataset in order, one per batch; a thread prepares the next one in advance.

    Example: ``{"_target_": "custom.data.VolumeLoader", "dataset": "@validate#dataset"}``

    Args:
        dataset: such as :class:`VolumeDataset`.
        timeout_s: seconds to wait for an item before raising an error.
        rank, world_size: by default torch.distributed's. Rank r takes items r, r + world_size, ...; if they cannot be
            divided evenly, the last ranks repeat the first items, since all ranks must take part in collective
            operations (:class:`custom.metrics.case_metric.CaseMetric` counts each volume once).

    Raises:
        DataError: as raised by the dataset.
        LoaderError: no item arrived for ``timeout_s`` seconds.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        timeout_s: float = 900.0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank {rank} with world_size {world_size}: expected both or neither")
        if rank is None:
            rank, world_size = distributed.rank(), distributed.world_size()
        self.dataset = dataset
        self.timeout_s = timeout_s
        self.indices = distributed.shared_indices(len(dataset), rank, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = _Batches(self.dataset)
        yield from _prefetch((batches[[index]] for index in self.indices), 1, self.timeout_s)


def start_method() -> multiprocessing.context.BaseContext:
    """Return the multiprocessing context ``forkserver``."""
    context = multiprocessing.get_context("forkserver")
    # The server imports torch and MONAI once for all workers.
    context.set_forkserver_preload([__name__, f"{__name__.split('.')[0]}.transforms"])
    return context


def plan_workers(num_workers: int, prefetch_factor: int, batch_bytes: int, free_bytes: int) -> tuple[int, int]:
    """Return the largest number of workers, and prefetch factor, whose batches fit into shared memory.

    At most ``workers * prefetch`` batches are prepared, one is in use and one just received. First the prefetch factor
    is reduced, then the number of workers; ``(0, prefetch_factor)`` is a thread, which needs no shared memory.
    """
    for workers in range(num_workers, 0, -1):
        for prefetch in range(prefetch_factor, 0, -1):
            if (workers * prefetch + 2) * batch_bytes <= SHARED_MEMORY_SHARE * free_bytes:
                return workers, prefetch
    return 0, prefetch_factor


def shared_memory_free() -> int | None:
    """Return the free bytes of shared memory, divided by the processes on this machine; None where none is needed."""
    if not os.path.isdir(SHARED_MEMORY):
        return None
    return shutil.disk_usage(SHARED_MEMORY).free // local_processes()


def tensor_bytes(item: Any) -> int:
    """Return the bytes of all tensors in nested dictionaries and sequences."""
    if isinstance(item, torch.Tensor):
        return item.nbytes
    if isinstance(item, Mapping):
        return sum(tensor_bytes(value) for value in item.values())
    if isinstance(item, Sequence) and not isinstance(item, str):
        return sum(tensor_bytes(value) for value in item)
    return 0


def _step_indices(first: int, batch_size: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """Item indices of each step of one rank, without end."""
    for step in count(first):
        start = (step * world_size + rank) * batch_size
        yield list(range(start, start + batch_size))


class _Batches(Dataset):
    """Collated batches by their list of indices; a DataError is returned as a value.

    Otherwise torch would wrap it into a message with the worker's traceback.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any] | DataError:
        try:
            batch = list_data_collate([self.dataset[index] for index in indices])
            return batch if self.transform is None else self.transform(batch)
        except Exception as error:
            data_error = find_data_error(error)
            if data_error is None:
                raise
            return DataError(*data_error.args)


def _refuse_twice(first: Any, second: Any) -> None:
    """Refuse a transform that is applied to items and again to batches, as by override files of earlier versions."""
    if first is None or second is None:
        return
    items, batches = (Compose(getattr(part, "transforms", part)).flatten().transforms for part in (first, second))
    if twice := [type(one).__name__ for one in items if any(one is other for other in batches)]:
        raise DataError.of(
            "train#preprocessing",
            f"{', '.join(twice)}, also in train#batch_transforms",
            "each in one of them: what is done to raw voxels in the workers, or to batches on the training's device",
        )


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_interrupts(_: int) -> None:
    """Ignore Ctrl-C in workers: the trainer still needs batches until its next optimizer step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _from_workers(loader: DataLoader, timeout_s: float) -> Iterator[dict[str, Any]]:
    batches = iter(loader)
    try:
        while True:
            try:
                batch = next(batches)
            except (RuntimeError, OSError, EOFError) as error:
                if str(error).startswith("Caught "):  # an error of the dataset, with the worker's traceback
                    raise
                raise LoaderError(_no_batch(loader.num_workers, timeout_s, error)) from error
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # An error keeps the iterator alive in its traceback until garbage collection, which closes the queues
        # first; torch then waits 5 s for each worker. There is no public way to shut workers down.
        batches._shutdown_workers()  # ty: ignore[missing-attribute]


def _no_batch(num_workers: int, timeout_s: float, error: Exception) -> str:
    free = shared_memory_free()
    shared = "" if free is None else f" {SHARED_MEMORY} has {free / 2**20:.0f} MiB free."
    return (
        f"no batch from {num_workers} worker processes (timeout_s={timeout_s:g}): {error}.{shared}"
        " Set num_workers=0, which makes batches in a thread, or fewer workers if memory is short; raise timeout_s"
        " if a batch can take that long. A script of your own has to start the training under"
        " `if __name__ == '__main__':`."
    )


def _prefetch(batches: Iterable[Any], depth: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Iterate in a thread that prepares up to ``depth`` batches in advance and ends with this iterator.

    Unlike MONAI's ``ThreadBuffer`` it passes on the source's errors.
    """
    ready: queue.SimpleQueue = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    stopped, started = threading.Event(), threading.Event()

    def work() -> None:
        # One thread as in a worker process, so that batches are identical and cores are left for training. Asked first,
        # because torch gives a thread the number of threads set last, anywhere, when the thread first asks for it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.set()
        try:
            source = iter(batches)
            while slots.acquire() and not stopped.is_set():
                ready.put((next(source), None))
        except BaseException as error:  # including StopIteration at the end of the source
            ready.put((None, error))

    def stop() -> None:
        stopped.set()
        slots.release()
        if thread is not threading.current_thread():  # called by the garbage collector
            thread.join(JOIN_S)

    threads = torch.get_num_threads()
    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    started.wait()
    torch.set_num_threads(threads)  # for threads started later
    atexit.register(stop)  # a thread inside torch can crash the interpreter's shutdown
    try:
        while True:
            try:
                batch, error = ready.get(timeout=timeout_s)
            except queue.Empty:
                raise LoaderError(
                    f"no batch within timeout_s={timeout_s:g} from the thread that makes them: the storage may hang;"
                    " raise timeout_s if a batch can take that long"
                ) from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            if isinstance(batch, DataError):
                raise batch
            slots.release()
            yield batch
    finally:
        atexit.unregister(stop)
        stop()
