"""Tensors that say that they are on ``cuda:0``."""

from typing import Any

import torch

from .record import STATE

CUDA = torch.device("cuda:0")


class PretendedTensor(torch.Tensor):
    """A tensor on ``cuda:0``, whose numbers are in ``held``: on the CPU, or on the meta device without numbers."""

    __slots__ = ("held",)  # not in __dict__, which MONAI's MetaTensor replaces
    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "PretendedTensor":
        with torch._C._DisableTorchDispatch():
            like = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            return torch.Tensor._make_subclass(cls, like, False, device_for_backend_keys=CUDA)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        return self

    def record_stream(self, stream: Any) -> None:
        """Nothing is freed too early here."""

    def is_pinned(self, *_: Any) -> bool:
        return False

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Move or convert, without the copy that torch's C++ part would make, which takes this for a meta tensor."""
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copied = self.clone() if kwargs.pop("copy", False) else self
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        rest = {"dtype": dtype or self.dtype, "memory_format": memory_format or torch.preserve_format}
        if device is not None and device.type != "cuda":
            return super().to(device=device, non_blocking=non_blocking, **rest)
        if rest["dtype"] != self.dtype:
            return super().to(**rest)
        return copied if memory_format is None else copied.contiguous(memory_format=memory_format)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copy = wrap(self.held.clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copy._is_param = True
            memo[id(self)] = copy
        return memo[id(self)]

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA, requires_grad=requires_grad)

    def tolist(self) -> Any:
        STATE.record.wait("tolist")
        return (torch.ones(self.shape, dtype=self.dtype) if self.held.is_meta else self.held).tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype}, cuda:0)"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        from .operations import run  # which makes tensors of this class

        return run(func, args, kwargs or {})


def wrap(held: torch.Tensor) -> PretendedTensor:
    """Return a tensor on the device with these numbers, whose memory is counted."""
    STATE.record.keep(held)
    return PretendedTensor(held)
