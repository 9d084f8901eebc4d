"""Randomness inside the network by counter, so that a resumed run needs no generator's state."""

import torch
from ignite.engine import Engine, Events

from ..ops.randomness import item_generator
from ..system.distributed import rank

# The datasets draw from the first streams of the same seed.
_STREAM = 1 << 16


class SeedSteps:
    """Seeds torch before every iteration from (seed, iteration, rank) alone.

    What dropout and stochastic depth draw in iteration n is then the same whether the run was interrupted before it or
    not, whatever was drawn in between (by a validation, by starting workers), and differs between ranks.

    Args:
        seed: of the run.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        numbers = item_generator(self.seed, engine.state.iteration, stream=_STREAM + rank())
        torch.manual_seed(int(numbers.integers(2**63)))
