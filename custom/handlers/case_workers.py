"""Worker processes that finish cases while the network predicts the next ones."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import forkserver
from typing import Any

import torch

from ..data.loader import start_method
from ..errors import DataError, find_data_error, one_line
from ..system.memory import free_bytes, usable_cores
from ..system.processes import local_processes, serve_parent
from .case_items import Item, Postprocessing, packed, unpacked

MOST = 8
"""More workers than this are not started by default."""
BYTES_PER_VOXEL = 32
"""Peak memory of a worker, rounded up; measured: 1.0 GiB with a volume of 320^3, 1.0 GiB with 450 x 512 x 512."""

logger = logging.getLogger(__name__)


class CaseError(RuntimeError):
    """A case could not be finished; the message is one line, and the cause has the traceback."""


class CaseWorkers:
    """Post-processes cases, and does what follows, in worker processes; the network predicts the next ones meanwhile.

    The post-processing's thresholds are applied on the network's device. Then the item is copied to a worker: labels
    and thresholded predictions, one byte a voxel each, and the image if a transform reads it. At most one case more
    than there are workers is unfinished: :meth:`finished` waits for the oldest one. Results come in the order of the
    cases, so they do not depend on the number of workers. Workers use one thread each.

    Args:
        workers: number of processes. 0 finishes cases in this process. None: on a GPU one less than the cores of this
            process, 1 to 8, fewer if memory is short; on a CPU 0, since the network needs all cores.
        timeout_s: seconds to wait for a case before the run ends with an error.
    """

    def __init__(
        self, postprocessing: Callable[[Item], Item] | None, *, workers: int | None = None, timeout_s: float = 3600.0
    ) -> None:
        if workers is not None and workers < 0:
            raise DataError.of("workers", str(workers), "0 or more")
        self.postprocessing = Postprocessing.of(postprocessing)
        self.workers = workers
        self.timeout_s = timeout_s
        self._running: deque[tuple[str, Future]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self._count = 0

    def prepare(self, device: torch.device) -> None:
        """Let the server from which workers are forked import its modules while the first case is predicted."""
        if self.workers if self.workers is not None else device.type != "cpu":
            start_method()
            forkserver.ensure_running()

    def submit(self, name: str, item: Item, work: Sequence[Callable[[Item], Any]], device: torch.device) -> None:
        """Post-process an item, and call each of ``work`` with it, in a worker.

        Args:
            item: ``pred``, label and so on, without a batch dimension.
            work: functions that can be pickled, as what they return.
        """
        if self._pool is None:
            voxels = item["pred"][0].numel()
            self._count = self._affordable(voxels, device) if self.workers is None else self.workers
        item = self.postprocessing.on_device(item)
        if self._count == 0:
            future: Future = Future()
            try:
                future.set_result(_finish(name, item, self.postprocessing.afterwards, work))
            except (DataError, CaseError) as error:
                future.set_exception(error)
        else:
            sent = packed(item, image=self.postprocessing.reads_image)
            future = self._start(_finish, name, sent, self.postprocessing.afterwards, work)
        self._running.append((name, future))

    def _start(self, *call: Any) -> Future:
        """Submit a call to the processes, or to new ones, if one of these was killed."""
        with suppress(BrokenProcessPool):
            if self._pool is not None:
                return self._pool.submit(*call)
        self._pool = ProcessPoolExecutor(
            self._count, mp_context=start_method(), initializer=serve_parent, initargs=(self._count,)
        )
        return self._pool.submit(*call)

    def finished(self, *, wait: bool = False) -> Iterator[tuple[str, Callable[[], list[Any]]]]:
        """Yield the cases that are finished, in order: their name, and a function that returns what ``work`` returned.

        The function raises a DataError if the case cannot be finished for a known reason, or a CaseError.

        Args:
            wait: whether to wait for all cases; otherwise only until no more than ``workers`` + 1 are unfinished.
        """
        while self._running and (wait or len(self._running) > self._count + 1 or self._running[0][1].done()):
            name, future = self._running.popleft()
            yield name, lambda name=name, future=future: self._results(name, future)

    def close(self) -> None:
        """End the workers, and forget cases that are unfinished."""
        pool, self._pool = self._pool, None
        self._running.clear()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _results(self, name: str, future: Future) -> list[Any]:
        try:
            return future.result(self.timeout_s)
        except BrokenProcessPool:
            done = [(other, also.exception()) for other, also in self._running if also.done()]
            names = ", ".join([name, *(other for other, error in done if isinstance(error, BrokenProcessPool))])
            raise DataError.of(
                names, "a worker process that was killed, probably for lack of memory", "fewer workers, or workers 0"
            ) from None
        except TimeoutError:
            self._kill()
            raise DataError.of(name, f"no result within timeout_s={self.timeout_s:g}", "more time") from None

    def _kill(self) -> None:
        """End workers that hang, for which the interpreter would wait at its end."""
        pool, self._pool = self._pool, None
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()

    @staticmethod
    def _affordable(voxels: int, device: torch.device) -> int:
        """Number of workers for cases of so many voxels; the processes of a ``torchrun`` share cores and memory."""
        if device.type == "cpu":
            return 0
        count = max(1, min(MOST, usable_cores() // local_processes() - 1))
        free = free_bytes()
        fitting = count if free is None else free // (voxels * BYTES_PER_VOXEL * local_processes())
        if fitting < count:
            logger.warning("%d instead of %d processes finish cases, since memory is short", max(1, fitting), count)
        return max(1, min(count, fitting))


def _finish(
    name: str, item: Item | bytes, postprocessing: Callable[[Item], Item], work: Sequence[Callable]
) -> list[Any]:
    """Finish an item; errors are raised as ones that can be pickled."""
    try:
        item = postprocessing(unpacked(item) if isinstance(item, bytes) else item)
        return [each(item) for each in work]
    except Exception as error:
        message = one_line(error, name)
        if find_data_error(error):
            raise DataError(message) from None
        raise CaseError(message) from error
