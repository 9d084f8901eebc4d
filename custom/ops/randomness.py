"""Randomness by counter: what item k draws depends on (seed, k) and on nothing that was drawn before."""

import numpy as np


def item_generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """A generator for item ``index`` of the run with ``seed``, each pair its own key of Philox 4x64.

    Philox is a keyed function of a counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): no
    state is carried from one item to the next, and no two keys have to be kept apart.

    Args:
        seed: 0 to 2**64 - 1.
        index: 0 to 2**64 - 1.
        stream: separates generators that share seed and index; each has 2**192 numbers of its own.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, 0, stream]))
