"""Random numbers that depend on (seed, item) alone, not on numbers drawn before."""

import math
from collections.abc import Sequence

import numpy as np
import torch


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


def normal_noise(shape: Sequence[int], key: int, device: torch.device) -> torch.Tensor:
    """Return independent standard normal numbers that depend on (shape, key) alone, on any device within rounding.

    torch's generators give other numbers on another device. Here the numbers of voxels are hashed (the finaliser of A.
    Appleby's MurmurHash3) and transformed in pairs (Box and Muller, 1958).

    Args:
        key: 0 to 2**63 - 1.

    Returns:
        float32 of this shape.
    """
    count = math.prod(shape)
    voxels = torch.arange((count + 1) // 2, dtype=torch.int32, device=device).mul_(-1640531527)  # 2**32 / golden ratio
    parts = np.random.SeedSequence(key).generate_state(2).view(np.int32)
    first, second = (_hashed(voxels + part) for part in parts.tolist())
    radius = first.add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())])[:count].view(shape)


def _hashed(numbers: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to 2**24 - 1, as float32; ``numbers`` is overwritten."""
    for shift, factor in ((16, -2048144789), (13, -1028477387)):
        numbers ^= (numbers >> shift) & (2 ** (32 - shift) - 1)
        numbers *= factor
    numbers ^= (numbers >> 16) & 0xFFFF
    return ((numbers >> 8) & 0xFFFFFF).float()
