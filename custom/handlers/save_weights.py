"""Saving the best and the final weights."""

import math
from pathlib import Path

import torch
from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..system.distributed import rank, share_buffers, unwrapped
from ..system.files import indispensable, write_whole


@without_effect("path")
class SaveBestWeights:
    """Saves a network's weights whenever a validation improves the key metric.

    A value that is not finite is never the best. The best value so far is ``evaluator.state.best_metric``, which
    :class:`Checkpoints` restores when a run is resumed.

    Example: ``{"_target_": "custom.handlers.SaveBestWeights", "path": "models/model.pt", "network": "@network"}``

    Args:
        network: the network that is evaluated, on any device. With several ranks, all use the buffers (batch-norm
            statistics) of rank 0, which are the ones that are saved.
    """

    def __init__(self, *, path: str, network: torch.nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: share_buffers(self.network))
        engine.add_event_handler(Events.COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        state = engine.state
        if state.best_metric_epoch != state.epoch:
            return
        if math.isfinite(state.best_metric):
            _write(self.path, self.network)
        else:  # MONAI keeps a first value of NaN, which no later one would exceed
            state.best_metric, state.best_metric_epoch = -1, -1


@without_effect("path")
class SaveFinalWeights:
    """Saves a network's weights when training is complete, not when it was interrupted or failed.

    Example: ``{"_target_": "custom.handlers.SaveFinalWeights", "path": "models/model_final.pt", "network":
    "@network"}``

    Args:
        network: the trained network, or its average.
    """

    def __init__(self, *, path: str, network: torch.nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, lambda _: _write(self.path, self.network))


def _write(path: Path, network: torch.nn.Module) -> None:
    """Save the weights of a network.

    Raises:
        DataError: the file cannot be written, for example because the disk is full.
    """
    if rank() != 0:
        return
    state = {key: value.cpu() for key, value in unwrapped(network).state_dict().items()}
    with indispensable(path, "weights"):
        write_whole(path, lambda file: torch.save(state, file))
