"""Every operation on the pretended device passes through ``run``, which computes, counts and refuses."""

import weakref
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from .record import STATE, Kernel, caller
from .tensor import PretendedTensor, wrap

aten = torch.ops.aten

WAITING = {
    *(aten._local_scalar_dense, aten.nonzero, aten.nonzero_numpy, aten.masked_select, aten.equal, aten._unique2),
    *(aten.unique_dim, aten.unique_consecutive, aten.is_nonzero, aten.bincount, aten.repeat_interleave),
}
"""Their result's size or value has to be known on the host."""
INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_, aten._unsafe_index}
"""These take indices from the host, too."""
ALLOCATING = {aten.empty, aten.empty_strided, aten.empty_like, aten.new_empty, aten.new_empty_strided}
STAGED_BYTES = 64 * 1024
"""Up to this size, pageable memory is copied to the device without waiting, if asked to."""

_pinned: set[int] = set()


def pinned(tensor: torch.Tensor) -> bool:
    """Whether a tensor on the host is in memory that counts as page-locked."""
    return tensor.untyped_storage()._cdata in _pinned


def pin(tensor: torch.Tensor) -> torch.Tensor:
    """Let the memory of a tensor count as page-locked."""
    storage = tensor.untyped_storage()
    if storage._cdata not in _pinned:
        _pinned.add(storage._cdata)
        weakref.finalize(storage, _pinned.discard, storage._cdata)
    return tensor


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation of torch.

    Raises:
        RuntimeError: it mixes tensors on the device with tensors on the CPU.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    to_device = _on_device(kwargs.get("device"))
    pins = kwargs.get("pin_memory")
    if pins:
        kwargs = {**kwargs, "pin_memory": False}
    if not ours and not to_device:
        return pin(func(*args, **kwargs)) if pins else func(*args, **kwargs)
    packet = func.overloadpacket
    if packet is aten._to_copy:
        return _converted(func, args[0], kwargs)
    if packet is aten.copy_:
        return _copied_into(func, *args, **kwargs)
    if ours:
        _refuse_mixed(func, tensors)
    return _computed(func, args, kwargs, to_device)


def _on_device(device: Any) -> bool:
    """Whether a device is ours; meta is what torch's C++ part takes our tensors for."""
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _refuse_mixed(func: Any, tensors: list[torch.Tensor]) -> None:
    on_host = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor) and tensor.dim()]
    if not on_host:
        return
    if func.overloadpacket in INDEXING and on_host[0] is not tensors[0]:
        STATE.record.wait("index from the host")
        return
    shapes = [tuple(tensor.shape) for tensor in on_host]
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
        f" ({func}, on the CPU: {shapes}) at {caller()}"
    )


def _computed(func: Any, args: tuple, kwargs: dict[str, Any], to_device: bool) -> Any:
    """Compute on the numbers that the tensors hold; what comes back as it went in is the same tensor."""
    by_held: dict[int, PretendedTensor] = {}

    def held(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, PretendedTensor):
            by_held[id(tensor.held)] = tensor
            return tensor.held
        return tensor.to(STATE.inner)

    args, kwargs = tree_map_only(torch.Tensor, held, (args, kwargs))
    if to_device:
        kwargs["device"] = STATE.inner
    packet = func.overloadpacket
    masked = packet is aten.index and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    if packet in WAITING or masked:
        STATE.record.wait(packet.__name__)
    if packet is aten._local_scalar_dense and args[0].is_meta:
        return torch.ones((), dtype=args[0].dtype).item()
    out = func(*args, **kwargs)
    _count(func, args, kwargs, out)
    return tree_map_only(
        torch.Tensor, lambda tensor: by_held[id(tensor)] if id(tensor) in by_held else wrap(tensor), out
    )


def _count(func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
    """Note the kernel that a GPU would run."""
    packet = func.overloadpacket
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    if is_view or packet in ALLOCATING:
        return
    flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
    if packet is aten.convolution_backward:  # torch's count is too large for groups
        grad, image, weight, transposed, needed = args[0], args[1], args[2], args[7], args[10]
        flops = 2 * (image if transposed else grad).numel() * weight[0].numel() * sum(needed[:2])
    size = sum(
        sum({id(leaf): leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}.values())
        for tree in ((args, kwargs), out)
    )
    STATE.record.kernels.append(Kernel(str(func).replace("aten.", ""), flops, size))


def _converted(func: Any, source: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    """``_to_copy``: another type, or another device."""
    device, non_blocking = kwargs.get("device"), kwargs.get("non_blocking", False)
    rest = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
    if not isinstance(source, PretendedTensor):
        _note_copy("H2D", source, source, non_blocking)
        return wrap(func(source, **rest, device=STATE.inner))
    if device is not None and torch.device(device).type == "cpu":
        out = torch.ones(source.shape, dtype=source.dtype) if source.held.is_meta else source.held.clone()
        out = func(out, **rest)
        _note_copy("D2H", source, pin(out) if non_blocking else out, non_blocking)  # torch allocates pinned memory
        return out
    out = func(source.held, **rest)
    _count(func, (source.held,), rest, out)
    return wrap(out)


def _copied_into(func: Any, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """``copy_``: between the devices, or on ours."""
    if not isinstance(target, PretendedTensor):
        _note_copy("D2H", source, target, non_blocking)
        if not source.held.is_meta:
            func(target, source.held)
    elif isinstance(source, PretendedTensor):
        func(target.held, source.held)
        _count(func, (target.held, source.held), {}, target.held)
    else:
        if source.dim():
            _note_copy("H2D", source, source, non_blocking)
        func(target.held, source.to(STATE.inner))
    return target


def _note_copy(kind: str, tensor: torch.Tensor, on_host: torch.Tensor, non_blocking: bool) -> None:
    record, locked = STATE.record, pinned(on_host)
    waits = not (non_blocking and (locked or (kind == "H2D" and on_host.nbytes <= STAGED_BYTES)))
    record.copies[", ".join([kind, "pinned" if locked else "pageable", *["waits"] * waits])] += 1
    record.copied_bytes[kind] += tensor.nbytes
    if waits:
        record.wait(f"{kind} copy of {tuple(tensor.shape) if tensor.dim() else 'a number'}")
