"""What every surface loss shares: float32 arithmetic and a target whose ignored voxels count for nothing."""

import torch
from torch.nn.modules.loss import _Loss

from ..ops.targets import IGNORE_LABEL, TARGET_CHANNELS


class MaskedLoss(_Loss):
    """Base of losses on two-class logits that leave out the voxels whose label is the ignore label.

    A subclass names the target channels it reads in ``reads`` and implements :meth:`compute`, which runs with
    autocast off on float32 tensors: sums over a patch overflow float16 and lose digits in bfloat16.

    Args:
        ignore_index: label value of the voxels that are left out.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, *, ignore_index: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: logits ``(B, 2, D, H, W)`` of any float dtype; channel 1 is the surface.
            target: ``(B, K, D, H, W)`` of any dtype, the channels in the order of
                :data:`custom.ops.targets.TARGET_CHANNELS`: the label (0 background, 1 surface, ignore), then whatever
                the loss reads beside it. The plain label, ``K = 1``, is enough for losses that read nothing else.

        Returns:
            the loss, a float32 scalar; 0 with zero gradients where every voxel is ignored.

        Raises:
            ValueError: when the shapes do not fit together or the target lacks a channel that the loss reads.
        """
        last = max((TARGET_CHANNELS.index(name) for name in self.reads), default=0)
        if input.shape[1] != 2 or input.shape[:1] + input.shape[2:] != target.shape[:1] + target.shape[2:]:
            raise ValueError(
                f"logits (B, 2, ...) and target (B, K, ...) of equal size expected, "
                f"found {tuple(input.shape)} and {tuple(target.shape)}"
            )
        if target.shape[1] <= last:
            raise ValueError(
                f"{type(self).__name__} reads target channel {last} ({TARGET_CHANNELS[last]}), which "
                f"SurfaceTargetsd makes; the target has {target.shape[1]} channel(s)"
            )
        # A MetaTensor would carry its bookkeeping through every operation below.
        input, target = input.as_subclass(torch.Tensor), target.as_subclass(torch.Tensor)
        with torch.autocast(device_type=input.device.type, enabled=False):
            label = target[:, :1]
            extras = (target[:, i : i + 1].float() for i in map(TARGET_CHANNELS.index, self.reads))
            return self.compute(input.float(), label, label != self.ignore_index, *extras)

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        """The loss from logits ``(B, 2, ...)``, label and boolean mask ``(B, 1, ...)`` and the channels read."""
        raise NotImplementedError
