"""The levels of an output and their shards."""

import math
from collections.abc import Sequence

import numpy as np


def level_count(shape: Sequence[int], chunk: int) -> int:
    """Levels of a pyramid: the coarsest fits into two chunks along every axis."""
    return 1 + max(0, math.ceil(math.log2(max(shape) / (2 * chunk))))


class Pyramid:
    """Where the levels of an output, and the shards of these, begin and end.

    Shards of level 0 are cubes; a shard of level k holds half of each length of what one of level k - 1 holds, down to
    one chunk, so that it is known as soon as the shard of level 0 is. Where that ends, levels are made out of the one
    before.

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
        """How many there are."""
        return level_count(self.shape, self.chunk)

    @property
    def inner_levels(self) -> int:
        """How many of them, level 0 included, are known shard by shard."""
        return min(self.levels, 1 + (self.shard // self.chunk).bit_length() - 1)

    def level_shape(self, level: int) -> tuple[int, ...]:
        """(D, H, W) of a level."""
        return tuple(-(-length // 2**level) for length in self.shape)

    def level_shard(self, level: int) -> int:
        """Edge of the shards of a level."""
        return max(self.chunk, self.shard >> level)

    def level_shards(self, level: int) -> list[tuple[int, ...]]:
        """Positions of the shards of a level, counted in shards."""
        edge = self.level_shard(level)
        return list(np.ndindex(*(-(-length // edge) for length in self.level_shape(level))))
