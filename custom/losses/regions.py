"""Base class of the liver losses: overlapping regions, each with its own sigmoid channel."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.modules.loss import _Loss

from ..errors import DataError
from .float32 import in_float32


class RegionLoss(_Loss, ABC):
    """Base of losses on logits of regions ``(B, R, ...)``, in float32; a subclass implements :meth:`compute`.

    With ``batch``, losses count the voxels of a region over all slices of a batch: in a loss for each slice, those
    without liver (about half of an abdominal CT) add a constant with hardly any gradient; over the batch their false
    positives count.

    Raises:
        DataError: the target, 1 inside the region and otherwise 0, has another number of regions.
        ValueError: it differs in another size.
    """

    @in_float32
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.shape[1] != target.shape[1]:
            found = f"{input.shape[1]} channels for {target.shape[1]} regions"
            raise DataError.of("network_def#out_channels", found, "a channel for each of the regions")
        if input.shape != target.shape:
            raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
        return self.compute(input, target)

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of two float32 tensors of the same shape."""
