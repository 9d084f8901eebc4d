"""Reads a part of a scroll plane by plane, fetching each chunk once and in advance."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..ops.windows import Part
from .blocks import row_depth
from .volume import Volume


class Planes:
    """Returns the planes of a part in ascending order, as :meth:`custom.inferers.SlidingWindow.planes` needs them.

    Keeps the rows of chunks that contain the current planes and the plane before them, and prefetches the next one in
    the background. Use as a context manager. ``step`` is that of the windows along the first axis, in planes.
    """

    def __init__(self, array: Volume, part: Part, step: int) -> None:
        self.array = array
        self.part = part
        (self.first, self.last), *spans = part.read
        self.spans = tuple(slice(*span) for span in spans)
        depth = row_depth(array.chunks[0], step)
        edges = range(self.first // depth * depth, self.last, depth)
        self.rows = [(max(start, self.first), min(start + depth, self.last)) for start in edges]
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self.kept: list[tuple[int, int, np.ndarray]] = []
        self.ahead: Future | None = None

    def __enter__(self) -> "Planes":
        self._prefetch()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.shutdown(cancel_futures=True)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return planes ``(stop - start, H, W)``, counted from the start of the padded part.

        Raises:
            RuntimeError: ``start`` is more than one plane before that of an earlier call, and no longer kept.
        """
        shift = self.first - self.part.padding[0][0]
        first, last = max(start + shift, self.first), min(stop + shift, self.last)
        while not self.kept or self.kept[-1][1] < last:
            self.kept.append(self.ahead.result())
            self._prefetch()
        self.kept = [row for row in self.kept if row[1] >= first]
        if self.kept[0][0] > first:
            raise RuntimeError(f"plane {first} is asked for, but only those from {self.kept[0][0]} on are kept")
        pieces = [array[max(first - a, 0) : last - a] for a, b, array in self.kept if a < last and b > first]
        planes = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        padding = [(first - start - shift, stop + shift - last), *self.part.padding[1:]]
        return np.pad(planes, padding, mode="edge") if any(map(any, padding)) else planes

    def _prefetch(self) -> None:
        self.ahead = self.reader.submit(self._read, *self.rows.pop(0)) if self.rows else None

    def _read(self, start: int, stop: int) -> tuple[int, int, np.ndarray]:
        return start, stop, self.array[(slice(start, stop), *self.spans)]
