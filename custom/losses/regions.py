"""Base class of the liver losses: overlapping regions, each with its own sigmoid channel."""

from abc import ABC, abstractmethod

import torch
from torch.nn.modules.loss import _Loss

from .float32 import in_float32


class RegionLoss(_Loss, ABC):
    """Base of losses on logits of regions, in float32; a subclass implements :meth:`compute`.

    With ``batch``, losses count the voxels of a region over all slices of a batch: in a loss for each slice, those
    without liver (about half of an abdominal CT) add a constant with hardly any gradient; over the batch their false
    positives count.
    """

    @in_float32
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            input: logits ``(B, R, ...)``, one channel per region.
            target: ``(B, R, ...)``, 1 inside the region, otherwise 0, of any dtype.

        Raises:
            ValueError: the shapes differ.
        """
        if input.shape != target.shape:
            raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
        return self.compute(input, target)

    @abstractmethod
    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of two float32 tensors of the same shape."""
