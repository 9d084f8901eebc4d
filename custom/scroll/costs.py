"""What a prediction will read, compute, keep in memory and write, before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..ops.windows import WindowGrid
from .blocks import CHUNK, BlockPlan, choose_block, choose_shard, parse_region
from .model import Bundle
from .pyramid import Pyramid

MEMORY_SHARE = 0.6
"""Of a worker's memory that a task's planes may take; the rest is for the network."""


@dataclass(frozen=True)
class Layout:
    """Which part of a volume is predicted, and in which pieces it is computed and written.

    Args:
        region: ``z0:z1,y0:y1,x0:x1`` in voxels; the windows are still those of the whole volume.
        block: (D, H, W) of a task in voxels, in multiples of the shard; by default see :func:`fit`.
        chunk: edge of the output's chunks in voxels.
        shard: edge of the output's shards in voxels, the chunk times a power of two; by default 512 or less.
    """

    region: str | None = None
    block: Sequence[int] | None = None
    chunk: int = CHUNK
    shard: int | None = None

    def plan(self, grid: WindowGrid, input_chunk: Sequence[int]) -> BlockPlan:
        """The tasks, blocks of one shard if not given.

        Args:
            grid: the windows of the whole volume.
            input_chunk: (D, H, W) of the volume's chunks.

        Raises:
            ValueError: the layout does not fit the volume or itself.
        """
        box = parse_region(self.region, grid.shape)
        shard = self.shard or choose_shard([stop - start for start, stop in box], self.chunk)
        if shard % self.chunk or (shard // self.chunk).bit_count() != 1:
            raise ValueError(f"shard: found {shard}, expected the chunk, {self.chunk}, times a power of two")
        return BlockPlan(grid, box, tuple(input_chunk), shard, tuple(self.block or (shard,) * 3))


def fit(plan: BlockPlan, *, workers: int, memory: float) -> BlockPlan:
    """The same in the blocks with which workers of ``memory`` bytes each are done first."""
    block = choose_block(
        plan.grid, plan.region, plan.input_chunk, plan.shard, workers=workers, memory=MEMORY_SHARE * memory
    )
    return replace(plan, block=block)


def plan_scroll(
    *,
    shape: Sequence[int],
    input_chunk: Sequence[int],
    bundle: Bundle,
    workers: int,
    memory: float,
    layout: Layout,
    voxels_per_second: float | None = None,
) -> dict[str, Any]:
    """What :func:`custom.scroll.engine.predict_scroll` would cost.

    Args:
        shape: (D, H, W) of the volume.
        input_chunk: (D, H, W) of its chunks.
        bundle: network and windows; no weights are needed.
        workers: how many there will be.
        memory: of each, in bytes.
        layout: region and pieces.
        voxels_per_second: of the volume, that one worker predicts in a large block; ``None``: not known.

    Returns:
        numbers by name: those that :func:`cost` gives, ``worker_hours`` in all, and ``hours`` until the end, at most.

    Raises:
        ValueError: the layout does not fit the volume or itself.
    """
    windows = bundle.windows()
    plan = layout.plan(WindowGrid(tuple(shape), windows.roi_size, windows.stride), input_chunk)
    if layout.block is None:
        plan = fit(plan, workers=workers, memory=memory)
    found = cost(plan, chunk=layout.chunk, views=len(windows.views))
    if voxels_per_second is not None:
        hours = found["voxels"] / plan.grid.part(plan.region).count / voxels_per_second / 3600  # for a window
        found |= {"worker_hours": plan.windows * hours, "hours": plan.longest(workers) * hours}
    return found | {"workers": workers}


def cost(plan: BlockPlan, *, chunk: int = CHUNK, views: int = 1) -> dict[str, Any]:
    """What a plan amounts to, if nothing in the volume is empty. Bytes are those of voxels before compression.

    Args:
        plan: the tasks.
        chunk: edge of the output's chunks in voxels.
        views: flips and turns in which the network sees every window.

    Returns:
        ``voxels`` of the output; ``block`` and number of ``blocks``; ``windows``, those that two blocks need counted
        twice; ``network_voxels``, that pass through the network; ``requests`` and ``bytes_read``, of chunks of the
        input; ``reads``, voxels fetched for each voxel; ``objects_written``, shards of all levels and markers;
        ``bytes_written``; ``bytes_read_back``, for coarse levels; ``memory``, of a worker, beside the network.
    """
    pyramid = Pyramid(plan.shape, chunk, plan.shard)
    voxels = [prod(pyramid.level_shape(level)) for level in range(pyramid.levels)]
    shards = [len(pyramid.level_shards(level)) for level in range(pyramid.levels)]
    inner = pyramid.inner_levels
    return {
        "shape": list(plan.shape),
        "voxels": voxels[0],
        "block": list(plan.block),
        "blocks": plan.count,
        "windows": plan.windows,
        "network_voxels": plan.windows * prod(plan.grid.roi) * views,
        "requests": plan.chunks_read,
        "bytes_read": round(plan.reads * voxels[0]),
        "reads": plan.reads,
        "objects_written": sum(shards) + shards[0] + sum(shards[inner:]),
        "bytes_written": sum(voxels),
        "bytes_read_back": sum(voxels[inner - 1 : -1]),
        "memory": plan.memory,
    }
