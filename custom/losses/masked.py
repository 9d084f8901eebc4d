"""Base class of the surface losses: targets with several channels, and ignored voxels."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.modules.loss import _Loss

from ..ops.target_layout import IGNORE_LABEL, TARGET_CHANNELS
from .float32 import in_float32


class MaskedLoss(_Loss, ABC):
    """Base of losses on two-class logits with an ignored label.

    A subclass lists the additional target channels that it needs in ``reads``, and implements :meth:`compute`.
    """

    reads: tuple[str, ...] = ()

    @in_float32
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss over the voxels that are not ignored.

        Args:
            input: logits ``(B, 2, D, H, W)`` of any float dtype; channel 1 is the surface.
            target: ``(B, K, D, H, W)`` of any dtype, with channels in the order of
                :data:`custom.ops.target_layout.TARGET_CHANNELS`. ``K = 1`` suffices for losses that only need the
                label (0 background, 1 surface, 2 ignored).

        Returns:
            the loss, a float32 scalar; finite and with zero gradient if all voxels are ignored.

        Raises:
            ValueError: the shapes do not match, or the target lacks a channel that the loss needs.
        """
        if input.shape[1] != 2 or input.shape[:1] + input.shape[2:] != target.shape[:1] + target.shape[2:]:
            raise ValueError(
                f"logits (B, 2, ...) and target (B, K, ...) of equal size expected, "
                f"found {tuple(input.shape)} and {tuple(target.shape)}"
            )
        indices = [TARGET_CHANNELS.index(name) for name in self.reads]
        if any(index >= target.shape[1] for index in indices):
            raise ValueError(
                f"{type(self).__name__} reads {' and '.join(self.reads)} from the target, which SurfaceTargetsd adds "
                f"to the label; the target has {target.shape[1]} channel(s), expected {len(TARGET_CHANNELS)}"
            )
        label = target[:, :1]
        return self.compute(input, label, label != IGNORE_LABEL, *(target[:, i : i + 1] for i in indices))

    @abstractmethod
    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        """Compute the loss from logits ``(B, 2, ...)`` and label, boolean mask and extra channels ``(B, 1, ...)``."""


def surface_probability(logits: Tensor) -> Tensor:
    """Return channel 1 of the softmax of two-class logits, ``(B, 1, ...)``, keeping a single tensor for backward."""
    return (logits[:, 1:] - logits[:, :1]).sigmoid()
