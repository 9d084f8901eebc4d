"""Ensembles of trained networks."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from ..configuration import without_effect

_SMALLEST = torch.finfo(torch.float32).tiny


class Ensemble(nn.Module):
    """Mean of the probabilities of several networks, returned as logits.

    For inferers it is a single network, so each window or slice is cut out once for all members. All members are in
    memory.

    Args:
        network: the architecture; the first member.
        count: number of members. The others are copies; load their weights by :class:`custom.handlers.LoadWeights`.
        activation: ``"softmax"`` over channels or ``"sigmoid"``.

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
        """Return the logits of the mean probability."""
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
    """Return the network itself for one weights file, or an :class:`Ensemble` of it for a list of several.

    Example: ``build_ensemble(network, checkpoint=["fold0.pt", "fold1.pt"], activation="softmax")``
    """
    if isinstance(checkpoint, str) or len(checkpoint) == 1:
        return network
    return Ensemble(network, count=len(checkpoint), activation=activation)
