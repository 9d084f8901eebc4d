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

    Example: ``{"_target_": "custom.handlers.SeedSteps", "seed": 0}``

    Args:
        seed: the run's seed.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        numbers = item_generator(self.seed, engine.state.iteration, stream=_STREAM + rank())
        torch.manual_seed(int(numbers.integers(2**63)))
