"""Levels of a resolution pyramid and their shards."""

import math
from collections.abc import Sequence

import numpy as np


def level_count(shape: Sequence[int], chunk: int) -> int:
    """Return the number of levels: the coarsest fits into two chunks along every axis."""
    return 1 + max(0, math.ceil(math.log2(max(shape) / (2 * chunk))))


class Pyramid:
    """Sizes and positions of the levels of an output, and of their shards.

    Shards of level 0 are cubes. Shards of coarser levels cover the same region, with half the length per level, down to
    one chunk, and can be computed from that shard alone. Even coarser levels are computed from the level before.

    Args:
        shape: (D, H, W) of level 0.
        chunk: edge of the chunks of every level, in voxels.
        shard: edge of the shards of level 0; ``chunk`` times a power of two.
    """

    def __init__(self, shape: Sequence[int], chunk: int, shard: int) -> None:
        self.shape = tuple(shape)
        self.chunk = chunk
        self.shard = shard

    @property
    def levels(self) -> int:
        return level_count(self.shape, self.chunk)

    @property
    def inner_levels(self) -> int:
        """Number of levels, including level 0, that can be computed from single shards of level 0."""
        return min(self.levels, 1 + (self.shard // self.chunk).bit_length() - 1)

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Return (D, H, W) of a level."""
        return tuple(-(-length // 2**level) for length in self.shape)

    def level_shard(self, level: int) -> int:
        """Return the edge of a level's shards."""
        return max(self.chunk, self.shard >> level)

    def level_shards(self, level: int) -> list[tuple[int, ...]]:
        """Return the positions of a level's shards, counted in shards."""
        edge = self.level_shard(level)
        return list(np.ndindex(*(-(-length // edge) for length in self.level_shape(level))))
