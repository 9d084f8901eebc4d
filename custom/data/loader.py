"""Batches for training as one unbroken stream, and volumes for validation, from loaders that never hang.

Worker processes are started by ``forkserver`` or ``spawn``: a process that has threads (as CUDA, gcsfs and zarr make
them) cannot be forked safely. What goes wrong anyway (too little shared memory, a worker that was killed or waits for
ever) ends in an error that says what to change. ``num_workers=0`` works everywhere: batches are then made ahead by a
thread, and NumPy and torch do their work outside the interpreter's lock.
"""

import atexit
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from torch.utils.data import DataLoader, Dataset

from ..configuration import without_effect
from ..errors import DataError, find_data_error
from ..system import distributed

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps the tensors that worker processes hand over; containers often have 64 MiB of it."""
SHARED_MEMORY_SHARE = 0.8
JOIN_S = 10.0


class LoaderError(RuntimeError):
    """No batch came: the workers hang or were killed. The message says what to change."""


@without_effect("num_workers", "prefetch_factor", "multiprocessing_context", "timeout_s", "pin_memory")
class StreamLoader:
    """Training batches as one stream without end: batch s holds items ``s * batch_size`` onwards of the dataset.

    With several ranks, batch s of rank r holds the r-th part of the ``world_size * batch_size`` items of step s: all
    ranks together train on the items one rank with the larger batch would.

    The dataset has to make item k from k alone (:class:`PatchDataset`, :class:`SliceDataset`). The stream is then the
    same, bit for bit, for any ``num_workers``, and going on at step s needs nothing but s. Given to a trainer also as a
    handler, the loader starts at the trainer's iteration, so that a trainer restored from a checkpoint sees exactly the
    batches it would have seen. Workers live as long as the iterator, and ignite keeps one iterator over all epochs.
    Iterating again goes on where the stream was left.

    Args:
        dataset: item k for any k >= 0, a dictionary of tensors and plain values.
        batch_size: items a batch, of each rank.
        num_workers: processes that make batches; 0 makes them in a thread of this process.
        prefetch_factor: batches each worker makes ahead.
        multiprocessing_context: ``"forkserver"`` (default where the system has it) or ``"spawn"``.
        timeout_s: seconds to wait for a batch before it is an error.
        start_step: the first batch of the stream.
        rank, world_size: of this process among the processes of one training; by default torch.distributed's.
        pin_memory: copy batches to page-locked memory, from where they go to a GPU faster.

    Raises:
        DataError: as raised by the dataset, one line, whichever process it happened in.
        LoaderError: no batch came for ``timeout_s`` seconds, or a worker was killed.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        batch_size: int,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        multiprocessing_context: str | None = None,
        timeout_s: float = 300.0,
        start_step: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        rank, world_size = _place(rank, world_size)
        if multiprocessing_context == "fork":
            raise ValueError("multiprocessing_context 'fork' can hang for ever; use 'forkserver' or 'spawn'")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank}: expected 0 to {world_size - 1}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.multiprocessing_context = multiprocessing_context
        self.timeout_s = timeout_s
        self.rank, self.world_size = rank, world_size
        self.pin_memory = pin_memory
        self.step = start_step
        """Batches handed out so far, counted from the start of the training; the next one to come."""

    def __len__(self) -> int:
        """Batches in one pass over the dataset, for trainers without ``epoch_length``; the stream goes on."""
        return max(1, len(self.dataset) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first = self.step
        workers, prefetch = self._affordable_workers()
        loader = DataLoader(
            _Batches(self.dataset),
            batch_size=None,
            sampler=_StepIndices(first, self.batch_size, self.rank, self.world_size),
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            multiprocessing_context=start_method(self.multiprocessing_context) if workers else None,
            worker_init_fn=_leave_interrupts_to_the_trainer if workers else None,
            timeout=self.timeout_s if workers else 0,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else a seed is drawn from the global one, and the training changes
        )
        batches = _from_workers(loader, self.timeout_s) if workers else _ahead(loader, prefetch, self.timeout_s)
        for step, batch in enumerate(batches, start=first + 1):
            self.step = step
            yield batch

    def attach(self, engine: Engine) -> None:
        """Follow a trainer: the stream starts at the iteration it was restored to. For the list of handlers."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._follow)

    def _follow(self, engine: Engine) -> None:
        self.step = engine.state.iteration

    def _affordable_workers(self) -> tuple[int, int]:
        """Number of workers and prefetch factor that the shared memory allows."""
        free = shared_memory_free()
        if self.num_workers == 0 or free is None:
            return self.num_workers, self.prefetch_factor
        sample = _Batches(self.dataset)[[(self.step * self.world_size + self.rank) * self.batch_size]]
        if isinstance(sample, DataError):
            raise sample
        size = self.batch_size * tensor_bytes(sample)
        workers, prefetch = plan_workers(self.num_workers, self.prefetch_factor, size, free)
        if (workers, prefetch) != (self.num_workers, self.prefetch_factor):
            logger.warning(
                "%s has %.0f MiB free, too little for num_workers=%d with prefetch_factor=%d and batches of %.1f MiB:"
                " using num_workers=%d with prefetch_factor=%d",
                *(SHARED_MEMORY, free / 2**20, self.num_workers, self.prefetch_factor, size / 2**20, workers, prefetch),
            )
        return workers, prefetch


@without_effect("timeout_s")
class VolumeLoader:
    """The items of a dataset in order, one a batch; a thread prepares the next while one is in use.

    Args:
        dataset: such as :class:`VolumeDataset`.
        timeout_s: seconds to wait for an item before it is an error.
        rank, world_size: by default torch.distributed's. They share the items as
            :func:`custom.system.distributed.shared_indices` says; :class:`custom.metrics.case_metric.CaseMetric` counts
            a volume once.

    Raises:
        DataError: as raised by the dataset.
        LoaderError: no item came for ``timeout_s`` seconds.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        timeout_s: float = 900.0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        rank, world_size = _place(rank, world_size)
        self.dataset = dataset
        self.timeout_s = timeout_s
        self.indices = distributed.shared_indices(len(dataset), rank, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = _Batches(self.dataset)
        yield from _ahead((batches[[index]] for index in self.indices), 1, self.timeout_s)


def start_method(name: str | None = None) -> multiprocessing.context.BaseContext:
    """The multiprocessing context ``name``; without a name ``forkserver``, on systems that lack it ``spawn``."""
    if name is None:
        name = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(name)
    if name == "forkserver":  # the server imports torch and MONAI once, its workers are then there at once
        context.set_forkserver_preload([__name__, f"{__name__.split('.')[0]}.transforms"])
    return context


def plan_workers(num_workers: int, prefetch_factor: int, batch_bytes: int, free_bytes: int) -> tuple[int, int]:
    """The largest number of workers, and prefetch factor, whose batches fit into the shared memory.

    In flight are ``workers * prefetch`` batches, one in use and one just received. First fewer batches are made ahead,
    then by fewer workers; ``(0, prefetch_factor)`` is a thread, which needs no shared memory.
    """
    for workers in range(num_workers, 0, -1):
        for prefetch in range(prefetch_factor, 0, -1):
            if (workers * prefetch + 2) * batch_bytes <= SHARED_MEMORY_SHARE * free_bytes:
                return workers, prefetch
    return 0, prefetch_factor


def shared_memory_free() -> int | None:
    """Bytes of shared memory left for this process (of several on a machine, its part); None where none is needed."""
    if not os.path.isdir(SHARED_MEMORY):
        return None
    return shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def tensor_bytes(item: Any) -> int:
    """Bytes of all tensors in nested dictionaries and sequences."""
    if isinstance(item, torch.Tensor):
        return item.nbytes
    if isinstance(item, Mapping):
        return sum(tensor_bytes(value) for value in item.values())
    if isinstance(item, Sequence) and not isinstance(item, str):
        return sum(tensor_bytes(value) for value in item)
    return 0


class _StepIndices:
    """The indices of the items of each step of one rank, for ever."""

    def __init__(self, first: int, batch_size: int, rank: int, world_size: int) -> None:
        self.first, self.batch_size, self.rank, self.world_size = first, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.first):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))


class _Batches(Dataset):
    """Collated batches by the list of their indices; a DataError is handed over as a value.

    torch would turn it into a message with the worker's traceback, and the one line would be lost.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any] | DataError:
        try:
            return list_data_collate([self.dataset[index] for index in indices])
        except Exception as error:
            data_error = find_data_error(error)
            if data_error is None:
                raise
            return DataError(*data_error.args)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Number of this process and of all, torch.distributed's where they are not given."""
    if rank is None and world_size is None:
        return distributed.rank(), distributed.world_size()
    if rank is None or world_size is None:
        raise ValueError(f"rank {rank} with world_size {world_size}: expected both or neither")
    return rank, world_size


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_the_trainer(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the trainer still needs batches up to its next optimizer step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _from_workers(loader: DataLoader, timeout_s: float) -> Iterator[dict[str, Any]]:
    batches = iter(loader)
    try:
        while True:
            batch = _next_from_workers(batches, loader.num_workers, timeout_s)
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # An error keeps the iterator in its traceback until the garbage collector comes, which takes the queues down
        # first; each worker then costs torch 5 s to give up on. There is no public way to end them.
        batches._shutdown_workers()  # ty: ignore[missing-attribute]


def _next_from_workers(batches: Iterator[Any], num_workers: int, timeout_s: float) -> Any:
    try:
        return next(batches)
    except (RuntimeError, OSError, EOFError) as error:
        if str(error).startswith("Caught "):  # an error of the dataset, with the worker's traceback
            raise
        free = shared_memory_free()
        shared = "" if free is None else f" {SHARED_MEMORY} has {free / 2**20:.0f} MiB free."
        raise LoaderError(
            f"no batch from {num_workers} worker processes (timeout_s={timeout_s:g}): {error}.{shared}"
            " Set num_workers=0, which makes batches in a thread, or fewer workers if memory is short; raise timeout_s"
            " if a batch can take that long. A script of your own has to start the training under"
            " `if __name__ == '__main__':`."
        ) from error


def _ahead(batches: Iterable[Any], depth: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Iterate in a thread that is up to ``depth`` batches ahead and ends with this iterator.

    Unlike MONAI's ``ThreadBuffer`` it hands on the source's errors.
    """
    ready: queue.SimpleQueue = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    stopped, started = threading.Event(), threading.Event()

    def work() -> None:
        # As in a worker process: batches equal to the last bit, and the cores left to the training. Asking comes first,
        # because torch gives a thread the number of threads set last, anywhere, when the thread first asks for it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.set()
        try:
            source = iter(batches)
            while slots.acquire() and not stopped.is_set():
                ready.put((next(source), None))
        except BaseException as error:  # also the end of the source, as StopIteration
            ready.put((None, error))

    def stop() -> None:
        stopped.set()
        slots.release()
        if thread is not threading.current_thread():  # the garbage collector may run anywhere
            thread.join(JOIN_S)

    threads = torch.get_num_threads()
    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    started.wait()
    torch.set_num_threads(threads)  # for the threads that come later
    atexit.register(stop)  # a thread inside torch while the interpreter is taken down can crash it
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
