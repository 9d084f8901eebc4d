"""Several trained networks as one."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from ..configuration import without_effect

_SMALLEST = torch.finfo(torch.float32).tiny


class Ensemble(nn.Module):
    """The mean of several networks' probabilities, given out as logits.

    To inferers it is one network: a window or slice is read and cut once and seen by all. All members are in memory,
    which is little beside what one of them computes with.

    Args:
        network: the architecture; the first member.
        count: number of members. The others are copies, each to get weights of its own, see
            :class:`custom.handlers.LoadWeights`.
        activation: what makes the probabilities, ``"softmax"`` over channels or ``"sigmoid"``.

    Shape:
        as the network's, which returns one tensor ``(B, C, ...)``. The output is float32; its softmax or sigmoid is the
        mean.
    """

    def __init__(self, network: nn.Module, *, count: int, activation: str) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(f"activation is softmax or sigmoid, found {activation!r}")
        self.activation = activation
        self.members = nn.ModuleList([network, *(deepcopy(network) for _ in range(count - 1))])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the mean probability."""
        total = None
        for member in self.members:
            logits = member(image).float()
            probability = logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()
            total = probability if total is None else total.add_(probability)
        mean = total.div_(len(self.members))
        log = mean.clamp_min(_SMALLEST).log()
        return log if self.activation == "softmax" else log - (1 - mean).clamp_min(_SMALLEST).log()


@without_effect("checkpoint")
def build_ensemble(network: nn.Module, *, checkpoint: str | Sequence[str], activation: str) -> nn.Module:
    """The network itself for one file of weights, an :class:`Ensemble` of it for a list of several."""
    if isinstance(checkpoint, str) or len(checkpoint) == 1:
        return network
    return Ensemble(network, count=len(checkpoint), activation=activation)
