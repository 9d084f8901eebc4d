"""Exponential moving average of the weights."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from ..errors import DataError
from ..system.distributed import unwrapped


class EMA:
    """Keeps an exponential moving average of a network's weights and buffers.

    After optimizer step t the average moves by ``1 - d`` towards the weights, ``d = min(decay, (1 + t) / (10 + t))``:
    the growing decay makes the average forget the first steps quickly, also in a short run. The average starts as the
    weights after the first step. Integer buffers (batch counts) are copied.

    Evaluate and save :attr:`network`, the averaged network. Its weights have ``requires_grad`` set, since autocast
    converts others anew in every call. Its keys have no ``module.`` prefix, also under ``DistributedDataParallel``,
    where weights are equal on all ranks but each rank averages its own buffers.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the growing decay is that of
    TensorFlow's ``ExponentialMovingAverage``.

    Example: ``{"_target_": "custom.handlers.EMA", "network": "@network", "optimizer": "@optimizer", "decay": 0.999}``

    Args:
        network: the network that is trained, on its device.
        decay: decay of the average; with None or 0 there is none, and :attr:`network` is the trained network itself.
    """

    def __init__(
        self, *, network: torch.nn.Module, optimizer: torch.optim.Optimizer, decay: float | None = 0.999
    ) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise DataError(f"decay is 0 to below 1, found {decay}")
        self.source = unwrapped(network)
        self.decay = decay
        self.average: AveragedModel | None = None
        if decay:
            self.average = AveragedModel(self.source)
            optimizer.register_step_post_hook(self._update)

    @property
    def network(self) -> torch.nn.Module:
        return self.source if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        return {} if self.average is None else self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(state)

    @torch.no_grad()
    def _update(self, *_: Any) -> None:
        """Like ``AveragedModel.update_parameters``, which sends the step to the GPU and waits for it."""
        average = self.average
        step = int(average.n_averaged)  # on the CPU
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        networks = (average.module, self.source)
        averages, values = (by_dtype(chain(network.parameters(), network.buffers())) for network in networks)
        for dtype in averages:
            if step and dtype.is_floating_point:
                torch._foreach_lerp_(averages[dtype], values[dtype], weight)
            else:
                torch._foreach_copy_(averages[dtype], values[dtype])
        average.n_averaged += 1


def by_dtype(tensors: Iterable[torch.Tensor]) -> dict[torch.dtype, list[torch.Tensor]]:
    """Group weights and buffers by type, so that a few kernels handle them all."""
    groups: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor.detach())
    return groups
