"""Ensembles of trained networks."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from ..configuration import without_effect
from .nnunet import NnunetUNet


class Ensemble(nn.Module):
    """Mean of the probabilities of several networks, returned as logits; or mean of their logits, as in nnU-Net.

    For inferers it is a single network, so each window or slice is cut out once for all members. All members are in
    memory.

    Args:
        count: number of members. The others are copies; load their weights by :class:`custom.handlers.LoadWeights`.
        activation: ``"softmax"`` over channels or ``"sigmoid"``. None: logits are averaged.

    Shape:
        as the network's, which returns one tensor ``(B, C, ...)``. The output is float32; its softmax or sigmoid is the
        mean, with an activation.
    """

    def __init__(self, network: nn.Module, *, count: int, activation: str | None) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid", None):
            raise ValueError(f"activation is softmax, sigmoid or None, found {activation!r}")
        self.activation = activation or "none"  # TorchScript compares strings with strings only
        self.smallest = torch.finfo(torch.float32).tiny
        self.members = nn.ModuleList([network, *(deepcopy(network) for _ in range(count - 1))])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(1, device=image.device)
        for member in self.members:
            total = total + self._activated(member(image).float())
        mean = total / len(self.members)
        if self.activation == "none":
            return mean
        log = mean.clamp_min(self.smallest).log()
        return log if self.activation == "softmax" else log - (1 - mean).clamp_min(self.smallest).log()

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        if self.activation == "softmax":
            return logits.softmax(1)
        return logits.sigmoid() if self.activation == "sigmoid" else logits


@without_effect("checkpoint")
def build_ensemble(network: nn.Module, *, checkpoint: str | Sequence[str], activation: str | None) -> nn.Module:
    """Return the network itself for one weights file, or an :class:`Ensemble` of it for a list of several.

    Logits are averaged if it is one of nnU-Net's networks, whatever the activation.

    Example: ``build_ensemble(network, checkpoint=["fold0.pt", "fold1.pt"], activation="softmax")``
    """
    if isinstance(checkpoint, str) or len(checkpoint) == 1:
        return network
    averaged = None if isinstance(network, NnunetUNet) else activation
    return Ensemble(network, count=len(checkpoint), activation=averaged)
