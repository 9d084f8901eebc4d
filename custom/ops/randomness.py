"""Random numbers that depend on (seed, item) alone, not on numbers drawn before."""

import numpy as np


def item_generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return a generator for item ``index`` of the run with ``seed``, with this pair as the key of Philox 4x64.

    Philox is a keyed function of a counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): no
    state is carried from one item to the next, and different keys give independent numbers.

    Args:
        seed: 0 to 2**64 - 1.
        index: 0 to 2**64 - 1.
        stream: separates generators with the same seed and index; each has 2**192 numbers.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, 0, stream]))
