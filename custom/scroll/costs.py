"""Estimates what a prediction will read, compute, keep in memory and write."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..ops.windows import WindowGrid
from .blocks import CHUNK, BlockPlan, choose_shard, fit, parse_region
from .model import Bundle
from .pyramid import Pyramid


@dataclass(frozen=True)
class Layout:
    """The part of a volume to predict, and the sizes of tasks, shards and chunks.

    Args:
        region: ``z0:z1,y0:y1,x0:x1`` in voxels; windows are those of the whole volume.
        block: (D, H, W) of a task in voxels, multiples of the shard; by default see :func:`.blocks.fit`.
        chunk: edge of the output's chunks in voxels.
        shard: edge of the output's shards in voxels, the chunk times a power of two; by default at most 512.
    """

    region: str | None = None
    block: Sequence[int] | None = None
    chunk: int = CHUNK
    shard: int | None = None

    def plan(self, grid: WindowGrid, input_chunk: Sequence[int]) -> BlockPlan:
        """Return the tasks, by default blocks of one shard.

        Raises:
            ValueError: the layout does not fit the volume, or is inconsistent.
        """
        box = parse_region(self.region, grid.shape)
        shard = self.shard or choose_shard([stop - start for start, stop in box], self.chunk)
        if shard % self.chunk or (shard // self.chunk).bit_count() != 1:
            raise ValueError(f"shard: found {shard}, expected the chunk, {self.chunk}, times a power of two")
        return BlockPlan(grid, box, tuple(input_chunk), shard, tuple(self.block or (shard,) * 3))


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
    """Estimate the cost of :func:`custom.scroll.engine.predict_scroll`.

    Args:
        shape: (D, H, W) of the volume.
        input_chunk: (D, H, W) of its chunks.
        bundle: network and windows; weights are not needed.
        workers: number of workers.
        memory: of each worker, in bytes.
        layout: region and sizes.
        voxels_per_second: speed of one worker in a large block, in voxels of the volume; adds ``worker_hours`` in total
            and an upper bound of the run time, ``hours``.

    Raises:
        ValueError: the layout does not fit the volume, or is inconsistent.
    """
    windows = bundle.windows()
    plan = layout.plan(windows.grid(tuple(shape)), input_chunk)
    if layout.block is None:
        plan = fit(plan, workers=workers, memory=memory)
    found = cost(plan, chunk=layout.chunk, views=len(windows.views))
    if voxels_per_second is not None:
        hours = found["voxels"] / plan.grid.part(plan.region).count / voxels_per_second / 3600  # for a window
        found |= {"worker_hours": plan.windows * hours, "hours": plan.longest(workers) * hours}
    return found | {"workers": workers}


def cost(plan: BlockPlan, *, chunk: int = CHUNK, views: int = 1) -> dict[str, Any]:
    """Return the cost of a plan, if nothing in the volume is empty. Bytes are those of uncompressed voxels.

    Windows that several blocks need count for each; ``reads`` are fetched voxels per output voxel; ``objects_written``
    are shards of all levels and markers; ``bytes_read_back`` serve coarse levels; ``memory`` is that of a worker
    without the network.
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
