"""Counts of matched features for many pairs of masks, in parallel processes.

The processes run this module as a command instead of using ``multiprocessing``: this also works in a data loader's
worker, does not import the caller's main module with torch and MONAI, and allows settings of the memory allocator that
halve the time; see ``ALLOCATION``.
"""

import contextlib
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..system.memory import free_bytes, usable_cores
from .betti import betti_extension, match_betti
from .components import betti_numbers

Pair = tuple[np.ndarray, np.ndarray]

BYTES_PER_VOXEL = 1500
"""Memory of a matching process; measured: up to 5.6 GiB with octants of 160^3."""

IN_PLACE_VOXELS = 48**3
"""Up to this size, matching takes no longer than starting a process."""

ALLOCATION = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**50)}
"""Makes the C library keep memory between matchings. By default it is returned and requested again, and
page faults take half of the time: 3.1 s of CPU time at 128^3, 1.5 s when memory is kept."""

ROOT = Path(__file__).resolve().parents[2]

_SHAPE = struct.Struct("<3q")

logger = logging.getLogger(__name__)


def match_counts(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return (3, 3) int64 for two masks: for each dimension the numbers of matched, predicted and labelled features.

    Masks are 6-connected, and the first component of a mask is not counted.

    Raises:
        BettiUnavailableError: the compiled extension is not installed.
    """
    # In the sublevel filtration the foreground must have the lower value.
    return match_betti((prediction == 0).astype(np.uint8), (label == 0).astype(np.uint8)).counts()


def match_counts_of_all(
    pairs: Sequence[Pair], processes: int | None = None, done: Callable[[], object] | None = None
) -> list[np.ndarray]:
    """Return :func:`match_counts` of several pairs, ``processes`` in parallel, skipping trivial matchings.

    Args:
        pairs: (prediction, label) masks (D, H, W).
        done: called after each pair, from any thread, for a progress bar.

    Raises:
        BettiUnavailableError: the compiled extension is not installed.
        MemoryError: a process was killed, even when it ran alone.
    """
    betti_extension()  # raises before any work
    done = done or (lambda: None)
    counts = [_counts_in_place(*pair) for pair in pairs]
    waiting = [index for index, known in enumerate(counts) if known is None]
    for _ in range(len(pairs) - len(waiting)):
        done()
    if waiting:
        processes = processes or affordable_processes(max(pairs[index][0].size for index in waiting))
        waiting = _match_in_processes(pairs, counts, waiting, processes, done)
    for index in waiting:
        logger.warning("an octant's process was killed, probably for lack of memory; repeating the octant alone")
        if _match_in_processes(pairs, counts, [index], 1, done):
            shape, need = pairs[index][0].shape, pairs[index][0].size * BYTES_PER_VOXEL / 2**30
            raise MemoryError(f"the matching of an octant of shape {shape} was killed; it takes about {need:.1f} GiB")
    return [count for count in counts if count is not None]


def affordable_processes(voxels: int) -> int:
    """Return how many matchings of ``voxels`` voxels the machine's cores and free memory allow in parallel; at least 1.

    The processes of a ``torchrun`` share both.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = max(usable_cores() // sharing, 1)
    free, each = free_bytes(), voxels * BYTES_PER_VOXEL * sharing
    fitting = cores if free is None else max(int(free // each), 1)
    if fitting < cores:
        message = "%d instead of %d octants at a time: each takes %.1f GiB and %.1f GiB are free"
        logger.warning(message, fitting, cores, each / sharing / 2**30, free / 2**30)
    return min(fitting, cores)


def _counts_in_place(prediction: np.ndarray, label: np.ndarray) -> np.ndarray | None:
    """Return the counts if they are cheap: nothing or everything matches, or the masks are small; otherwise None."""
    predicted, present = betti_numbers(prediction), betti_numbers(label)
    if not (predicted * present).any():
        return np.stack([np.zeros(3, np.int64), predicted, present], axis=1)
    if np.array_equal(prediction != 0, label != 0):
        return np.stack([present, present, present], axis=1)
    return match_counts(prediction, label) if prediction.size <= IN_PLACE_VOXELS else None


def _match_in_processes(
    pairs: Sequence[Pair],
    counts: list[np.ndarray | None],
    waiting: Sequence[int],
    processes: int,
    done: Callable[[], object],
) -> list[int]:
    """Fill ``counts`` at the indices ``waiting``; returns those that remain because a process was killed."""
    line = iter(waiting)  # a list iterator, safe to share between threads

    def serve() -> None:
        with _Matcher() as matcher:
            while (index := next(line, None)) is not None:
                counts[index] = matcher.match(*pairs[index])
                if counts[index] is None:
                    return
                done()

    processes = min(processes, len(waiting))
    with ThreadPoolExecutor(processes) as pool:
        for served in [pool.submit(serve) for _ in range(processes)]:
            served.result()
    return [index for index in waiting if counts[index] is None]


class _Matcher:
    """A matching process, which receives bit masks on standard input and returns nine counts."""

    def __enter__(self) -> "_Matcher":
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment = {**os.environ, **ALLOCATION, "PYTHONPATH": path}
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self

    def match(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray | None:
        """Return the counts, or None if the process was killed by a signal."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_SHAPE.pack(*prediction.shape))
            self._process.stdin.write(np.packbits([prediction != 0, label != 0]).tobytes())
            self._process.stdin.flush()
        answer = self._process.stdout.read(9 * 8)
        if len(answer) == 9 * 8:
            return np.frombuffer(answer, np.int64).reshape(3, 3)
        code = self._process.wait()
        if code >= 0:
            raise RuntimeError("matching the features of an octant failed; the process's own message stands above")
        return None

    def __exit__(self, *error: object) -> None:
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # ends the process
        self._process.wait()


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while header := requests.read(_SHAPE.size):
        shape = (2, *_SHAPE.unpack(header))
        voxels = int(np.prod(shape))
        bits = np.frombuffer(requests.read((voxels + 7) // 8), np.uint8)
        answers.write(match_counts(*np.unpackbits(bits, count=voxels).reshape(shape)).tobytes())
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
