"""Convolutions that oneDNN computes wrongly in bfloat16."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv2d, torch.conv3d)


class NarrowConvolutionsInFloat32(TorchFunctionMode):
    """Context in which 2-D and 3-D convolutions of images at most four columns wide are computed in float32 on a CPU.

    On processors with AMX, oneDNN 3.12 (in torch 2.13) reads memory that was never written if the output of a strided
    convolution in bfloat16 is one column wide and several rows high. The result is NaN, or finite and wrong, and
    differs from call to call. Layers of such a size take next to no time, whatever the precision.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        input = args[0] if args else kwargs.get("input")
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        narrow = func in _CONVOLUTIONS and input.device.type == "cpu" and input.shape[-1] <= 4
        if not narrow or dtype is None:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            args = [_float32(value) for value in args]
            return func(*args, **{key: _float32(value) for key, value in kwargs.items()}).to(dtype)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value
