"""CUDA's autocast, which torch's C++ part leaves out for tensors that it does not take for CUDA's."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .tensor import PretendedTensor

Tensor = torch.Tensor

# The lists of aten/src/ATen/autocast_mode.h, as far as networks and losses call them from Python.
LOWER = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.prelu, F.linear),
    *(Tensor.matmul, Tensor.__matmul__, F.scaled_dot_product_attention),
}
FLOAT32 = {
    *(torch.pow, torch.exp, torch.log, torch.log2, torch.log10, torch.log1p, torch.expm1, torch.cosh, torch.sum),
    *(torch.prod, torch.cumsum, torch.norm, torch.softmax, torch.log_softmax, torch.layer_norm, torch.group_norm),
    *(torch.rsqrt, torch.reciprocal, torch.cosine_similarity, F.cosine_similarity, F.softmax, F.log_softmax),
    *(F.layer_norm, F.group_norm, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.nll_loss, F.cross_entropy, F.kl_div),
    *(F.binary_cross_entropy_with_logits, Tensor.pow, Tensor.exp, Tensor.log, Tensor.sum, Tensor.softmax),
    *(Tensor.norm, Tensor.cumsum, Tensor.prod),
}
WIDEST = {
    *(torch.cat, torch.stack, torch.addcmul, torch.addcdiv, torch.tensordot, torch.dot, torch.bilinear, torch.cross),
    *(F.grid_sample, torch.atan2),
}
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class Autocast(TorchFunctionMode):
    """Converts the arguments of functions; the weights' copies are kept until autocast ends, as CUDA's are."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in INDEXING and isinstance(args[0], PretendedTensor):
            return func(args[0], _with_tensors(args[1]), *args[2:])
        if func in LOWER or func in FLOAT32 or func in WIDEST:
            floats = [t for t in tree_leaves((args, kwargs)) if _casts(t)]
            if floats and torch.is_autocast_enabled("cuda"):
                dtype = _dtype(func, floats)
                args, kwargs = tree_map_only(PretendedTensor, lambda t: self._cast(t, dtype, func), (args, kwargs))
        return func(*args, **kwargs)

    def _cast(self, tensor: Tensor, dtype: torch.dtype, func: Any) -> Tensor:
        if not _casts(tensor) or tensor.dtype in (dtype, torch.float64):
            return tensor
        weight = func in LOWER and tensor.requires_grad and tensor.is_leaf and torch.is_autocast_cache_enabled()
        if weight and id(tensor) in self.cache:
            return self.cache[id(tensor)][1]
        with torch._C.DisableTorchFunction():
            out = tensor.to(dtype)
        if weight:
            self.cache[id(tensor)] = (tensor, out)  # the tensor as well, so that no other gets its id
        return out

    def clearing(self, original: Callable[[], None]) -> Callable[[], None]:
        """Return a function that clears this cache and torch's."""

        def clear() -> None:
            self.cache.clear()
            original()

        return clear


def _casts(leaf: Any) -> bool:
    return isinstance(leaf, PretendedTensor) and leaf.is_floating_point()


def _dtype(func: Any, floats: list[Tensor]) -> torch.dtype:
    if func in FLOAT32 or (func in WIDEST and any(tensor.dtype == torch.float32 for tensor in floats)):
        return torch.float32
    return torch.get_autocast_dtype("cuda")


def _with_tensors(index: Any) -> tuple:
    """Return an index whose lists are tensors on the host; the C++ part would ask the device for them."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)
