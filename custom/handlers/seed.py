"""Reproducible random numbers inside the network, also after resuming."""

import torch
from ignite.engine import Engine, Events

from ..ops.randomness import item_generator
from ..system.distributed import rank

# The datasets use the lower streams of the same seed.
_STREAM = 1 << 16


class SeedSteps:
    """Seeds torch before every iteration from (seed, iteration, rank).

    Dropout and stochastic depth then draw the same numbers in iteration n whether or not the run was interrupted,
    whatever else drew random numbers in between; ranks draw different ones.

    On a GPU, results are reproducible only with ``deterministic``; otherwise cuDNN uses the kernels that it measures to
    be fastest. This is decided when the handler is attached, for the whole process.

    Example: ``{"_target_": "custom.handlers.SeedSteps", "seed": 0}``
    """

    def __init__(self, *, seed: int, deterministic: bool = False) -> None:
        self.seed = seed
        self.deterministic = deterministic

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, and choose cuDNN's kernels."""
        torch.backends.cudnn.deterministic = self.deterministic
        torch.backends.cudnn.benchmark = not self.deterministic
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        numbers = item_generator(self.seed, engine.state.iteration, stream=_STREAM + rank())
        torch.manual_seed(int(numbers.integers(2**63)))
