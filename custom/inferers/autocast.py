"""Automatic mixed precision on any device."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import SimpleInferer

from ..configuration import without_effect
from ..system.gpu import check_gpu
from .common import PRECISIONS, check_precision, device_of, fast_dtype
from .narrow_convolutions import NarrowConvolutionsInFloat32


@without_effect("device")
class AutocastInferer(SimpleInferer):
    """Runs a network under ``torch.autocast`` on any device, and returns float32: a tensor, or a list or tuple of them.

    MONAI's engines autocast on CUDA only. Losses and metrics are computed in float32. Training in float16 needs MONAI's
    ``GradScaler``: set ``"amp": "$@train#inferer.scales_gradients"`` in the trainer, with ``"amp_kwargs": {"enabled":
    false}`` so that MONAI does not cast the loss as well.

    Example: ``{"_target_": "custom.inferers.AutocastInferer", "precision": "bfloat16", "device": "@device"}``

    Args:
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: on CUDA the 16-bit type with hardware
            support (bfloat16 if possible), on a CPU float32.
        device: where the network will run, for ``"auto"``.

    Raises:
        DataError: an unknown precision, or a GPU that this build of torch does not serve.
    """

    def __init__(self, *, precision: str = "auto", device: str | torch.device = "cpu") -> None:
        super().__init__()
        check_precision(precision)
        device = torch.device(device)
        check_gpu(device)
        automatic = fast_dtype(device) if device.type == "cuda" else None
        self.dtype = automatic if precision == "auto" else PRECISIONS[precision]
        self.precision = next(name for name, dtype in PRECISIONS.items() if dtype is self.dtype)
        """The precision in use, never ``"auto"``."""
        self.scales_gradients = self.dtype is torch.float16
        """Whether a ``GradScaler`` is needed to keep small gradients from underflowing."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        device, casts = device_of(network, inputs).type, self.dtype is not None
        narrow = NarrowConvolutionsInFloat32() if casts and device == "cpu" else nullcontext()
        with torch.autocast(device, dtype=self.dtype, enabled=casts), narrow:
            return _float32(network(inputs, *args, **kwargs))


def _float32(output: Any) -> Any:
    return type(output)(map(_float32, output)) if isinstance(output, list | tuple) else output.float()
