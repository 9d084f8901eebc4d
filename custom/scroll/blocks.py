"""Division of a scroll into tasks: what each of them reads, predicts, keeps in memory and writes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..ops.windows import Box, Part, WindowGrid

CHUNK = 128
"""Edge of an output chunk in voxels: the unit that viewers fetch, and the chunk size of most scrolls."""
SHARD = 512
"""Largest edge of an output shard in voxels: the unit of writing, one object of a bucket."""
MOST_READS = 1.35
"""Largest number of fetched voxels per predicted voxel, if blocks that achieve it can occupy all workers."""
MEMORY_SHARE = 0.6
"""Fraction of a worker's memory for the planes of a task; the rest is for the network."""
LARGEST_BLOCK = (8, 4, 4)
"""(D, H, W) in shards. Depth needs no memory, since planes are streamed; it limits the duration of a task."""


@dataclass(frozen=True)
class BlockPlan:
    """The tasks of a run.

    A task is a block of whole shards. It processes its block plane by plane, with the windows of the global grid, and
    writes a layer of shards whenever one is complete. Lengths are in voxels.
    """

    grid: WindowGrid
    """The windows of the whole volume."""
    region: Box
    """The part of the volume that is predicted; origin of blocks and shards."""
    input_chunk: Sequence[int]
    shard: int
    """Edge of the output's shards."""
    block: Sequence[int]
    """(D, H, W) of a task; multiples of the shard."""

    def __post_init__(self) -> None:
        if any(length < 1 or length % self.shard for length in self.block):
            raise ValueError(f"block must be in multiples of the shard, {self.shard} voxels, found {tuple(self.block)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) of the output, in voxels."""
        return tuple(stop - start for start, stop in self.region)

    def blocks(self) -> list[Box]:
        """Return the tasks as boxes in voxels of the output, plane by plane."""
        return list(product(*self._spans()))

    def part(self, box: Box) -> Part:
        """Return the windows that a box of the output needs."""
        return self.grid.part(shifted(box, self.region))

    @property
    def count(self) -> int:
        return math.prod(map(len, self._spans()))

    @property
    def windows(self) -> int:
        """Number of predicted windows, counting those shared by blocks once for each."""
        return math.prod(sum(len(part.starts[axis]) for part in parts) for axis, parts in self._axis_parts())

    @property
    def chunks_read(self) -> int:
        """Number of chunk requests, including repeated ones."""
        return math.prod(
            sum(_chunks(*part.read[axis], self.input_chunk[axis]) for part in parts)
            for axis, parts in self._axis_parts()
        )

    @property
    def reads(self) -> float:
        """Fetched voxels, in whole chunks, relative to the output's voxels."""
        fetched = 1
        for axis, parts in self._axis_parts():
            size, chunk = self.grid.shape[axis], self.input_chunk[axis]
            spans = [part.read[axis] for part in parts]
            fetched *= sum(min(-(-stop // chunk) * chunk, size) - start // chunk * chunk for start, stop in spans)
        return fetched / math.prod(self.shape)

    @property
    def largest_size(self) -> tuple[int, ...]:
        """(D, H, W) of the largest task's input."""
        return tuple(max(part.size[axis] for part in parts) for axis, parts in self._axis_parts())

    @property
    def most_windows(self) -> int:
        """Largest number of windows of a task."""
        return math.prod(max(len(part.starts[axis]) for part in parts) for axis, parts in self._axis_parts())

    def longest(self, workers: int) -> float:
        """Return an upper bound of the run time in windows, if idle workers take the next block (Graham 1966)."""
        return (self.windows + (workers - 1) * self.most_windows) / workers

    @property
    def memory(self) -> int:
        """Bytes used by the largest task, without the network and its activations."""
        _, height, width = self.largest_size
        row = row_depth(self.input_chunk[0], self.grid.stride[0])
        roi = self.grid.roi[0]
        sums = 2 * 4 * roi  # of predictions and of weights, float32
        planes = 2 * roi + 3 * row  # the planes of the windows, chunk rows in use and the row that is prefetched
        block = math.prod(min(a, b) for a, b in zip(self.block[1:], self.shape[1:], strict=True))
        return height * width * (sums + planes) + block * self.shard + 4 * self.shard**3

    def _spans(self) -> list[list[tuple[int, int]]]:
        return [
            [(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(self.shape, self.block, strict=True)
        ]

    def _axis_parts(self) -> Iterator[tuple[int, list[Part]]]:
        """Yield each axis with its blocks' parts; axes are independent."""
        for axis, spans in enumerate(self._spans()):
            boxes = [tuple(span if other == axis else (0, 1) for other in range(3)) for span in spans]
            yield axis, [self.part(box) for box in boxes]


def fit(plan: BlockPlan, *, workers: int, memory: float) -> BlockPlan:
    """Return the plan with the block size that minimises the total run time of workers of ``memory`` bytes each.

    Larger blocks repeat fewer windows and reads at their borders; smaller ones balance the load at the end. The
    prediction does not depend on the block size.
    """
    most = [min(-(-size // plan.shard), limit) for size, limit in zip(plan.shape, LARGEST_BLOCK, strict=True)]
    plans = []
    for shards in product(*(range(1, count + 1) for count in most)):
        candidate = replace(plan, block=tuple(count * plan.shard for count in shards))
        if candidate.memory <= MEMORY_SHARE * memory or shards[1:] == (1, 1):
            plans.append(candidate)
    frugal = [candidate for candidate in plans if candidate.reads <= MOST_READS and candidate.count >= workers]
    return min(frugal or plans, key=lambda candidate: (candidate.longest(workers), candidate.reads))


def choose_shard(shape: Sequence[int], chunk: int = CHUNK) -> int:
    """Return the edge of the output's shards: the largest that leaves two along the longest axis."""
    shard = SHARD
    while shard > chunk and 2 * shard > max(shape):
        shard //= 2
    return max(shard, chunk)


def row_depth(chunk: int, step: int) -> int:
    """Return the number of planes read at once: whole chunks, at least the step of the windows."""
    return -(-step // chunk) * chunk


def shifted(box: Box, region: Box) -> Box:
    """Convert a box of the output to voxels of the volume."""
    return tuple((start + first, stop + first) for (start, stop), (first, _) in zip(box, region, strict=True))


def parse_region(text: str | None, shape: Sequence[int]) -> Box:
    """Parse ``z0:z1,y0:y1,x0:x1``; an empty number is the volume's border.

    Raises:
        ValueError: the text has another format, or the box is empty or exceeds the volume.
    """
    if text is None:
        return tuple((0, size) for size in shape)
    try:
        bounds = [[int(number) if number.strip() else None for number in span.split(":")] for span in text.split(",")]
        box = tuple(
            (start or 0, size if stop is None else stop) for (start, stop), size in zip(bounds, shape, strict=True)
        )
    except (ValueError, AttributeError):
        raise ValueError(f"region: found {text!r}, expected z0:z1,y0:y1,x0:x1 in voxels") from None
    if not all(0 <= start < stop <= size for (start, stop), size in zip(box, shape, strict=True)):
        raise ValueError(f"region: found {text!r}, expected a box within the volume's {tuple(shape)} voxels")
    return box


def halve(array: np.ndarray, *, mask: bool) -> np.ndarray:
    """Return the next level of a pyramid: uint8 ``(D, H, W)`` with half of each length, rounded up.

    A voxel is the rounded mean of 8 voxels; in a mask their maximum, so that sheets two voxels thick remain connected.
    At an odd end the last plane counts twice.
    """
    array = np.pad(array, [(0, length % 2) for length in array.shape], mode="edge")
    octants = [array[z::2, y::2, x::2] for z, y, x in product((0, 1), repeat=3)]
    if mask:
        return np.maximum.reduce(octants)
    total = np.full(octants[0].shape, 4, np.uint16)
    for octant in octants:
        total += octant
    return (total >> 3).astype(np.uint8)


def _chunks(start: int, stop: int, chunk: int) -> int:
    return -(-stop // chunk) - start // chunk
