"""MONAI's MetaTensor on the pretended device: a class that is both, since torch would wrap a wrapper."""

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.meta_obj import MetaObj

from .tensor import PretendedTensor, wrap


class PretendedMetaTensor(PretendedTensor, MetaTensor):
    """A MetaTensor on ``cuda:0``."""

    __slots__ = ()
    __torch_function__ = MetaTensor.__dict__["__torch_function__"]

    @staticmethod
    def __new__(cls, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return with_meta(x if isinstance(x, PretendedTensor) else wrap(x), MetaTensor)

    def __init__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        MetaTensor.__init__(self, x, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return memo.setdefault(id(self), self.clone())

    def as_tensor(self) -> torch.Tensor:
        return wrap(self.held)

    def clone(self, **kwargs: Any) -> torch.Tensor:
        clone = with_meta(wrap(self.held.clone(**kwargs)), MetaTensor)
        clone.__dict__ = dict(self.__dict__)
        return clone


def with_meta(tensor: torch.Tensor, cls: type) -> torch.Tensor:
    """Make a tensor on the device a MetaTensor, if ``cls`` is one."""
    if issubclass(cls, MetaTensor) and not isinstance(tensor, MetaTensor) and not tensor.requires_grad:
        tensor.__class__ = PretendedMetaTensor
        MetaObj.__init__(tensor)
        tensor.meta, tensor.applied_operations = {}, []
    return tensor


def new(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``MetaTensor.__new__`` that takes tensors on the device, too."""

    def create(cls: type, x: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if isinstance(x, PretendedTensor):
            return with_meta(wrap(x.held.detach()), MetaTensor)
        return original(cls, x, *args, **kwargs)

    return create


def converting(original: Callable[[Any, type], Any]) -> Callable[[Any, type], Any]:
    """``torch._tensor._convert``, by which results get the class of their arguments."""

    def convert(result: Any, cls: type) -> Any:
        if isinstance(result, PretendedTensor):
            return with_meta(result, cls)
        if isinstance(result, (tuple, list)) and any(isinstance(part, PretendedTensor) for part in result):
            return type(result)(convert(part, cls) for part in result)
        return original(result, MetaTensor if cls is PretendedMetaTensor else cls)  # on the CPU again

    return convert
