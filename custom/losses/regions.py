"""What the losses of the liver share: overlapping regions, each a sigmoid channel of its own."""

from abc import ABC, abstractmethod

import torch
from torch.nn.modules.loss import _Loss

from .float32 import in_float32


class RegionLoss(_Loss, ABC):
    """Base of losses on logits of regions, in float32; a subclass implements :meth:`compute`.

    The liver holds the tumour, so each region is a question of its own. Losses that pool the batch count the voxels of
    a region over all of its slices: slice by slice, one without liver (about half of an abdominal CT) adds a constant
    with hardly any gradient; pooled, it adds its false alarms to those of the others.
    """

    @in_float32
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            input: logits ``(B, R, ...)``, one channel a region.
            target: ``(B, R, ...)``, 1 inside the region, else 0, of any dtype.

        Raises:
            ValueError: when the shapes differ.
        """
        if input.shape != target.shape:
            raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
        return self.compute(input, target)

    @abstractmethod
    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of float32 tensors of one shape."""
