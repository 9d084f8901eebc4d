"""Losses in float32, whatever the network's precision."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.nn.modules.loss import _Loss

Forward = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def in_float32(forward: Forward) -> Forward:
    """Decorate ``forward(self, input, target)`` of a loss to compute in float32.

    Sums over a 512 x 512 slice overflow in float16 (largest value 65504) and are inaccurate in bfloat16. Autocast is
    disabled, and both tensors are converted to float32 (float64 is kept), without metadata.
    """

    @wraps(forward)
    def wrapped(self: Any, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(input.dtype, torch.float32)
        input, target = (tensor.as_subclass(torch.Tensor).to(dtype) for tensor in (input, target))
        with torch.autocast(device_type=input.device.type, enabled=False):
            return forward(self, input, target)

    return wrapped


class Float32Loss(_Loss):
    """A loss of MONAI or torch, computed in float32 with autocast disabled.

    Example: ``{"_target_": "custom.losses.Float32Loss", "loss": {"_target_": "TverskyLoss", "sigmoid": true}}``
    """

    def __init__(self, *, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @in_float32
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(input, target)
