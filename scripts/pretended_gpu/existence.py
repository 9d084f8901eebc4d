"""Gives torch's C++ part what a build for the CPU lacks, so that ``"cuda"`` is a device to it."""

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


@cache
def let_the_device_exist() -> torch.library.Library:
    """Prepare torch, once; nothing else changes by it.

    Returns:
        what says that CUDA has kernels for some operations, which torch would take apart otherwise.
    """
    library = torch.library.Library("aten", "IMPL")
    for name in ("silu_backward", "mish_backward"):
        library.impl(name, lambda *_: None, "CUDA")
    with suppress(OSError, ValueError):  # "cuda:0" works without it
        _set_guard()
    return library


def _set_guard() -> None:
    """Let the C++ part fill in the index of "cuda", which it asks a guard for.

    It has one that does nothing, and takes it where a guard is registered that counts no devices: for a moment, ours.
    """
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 21).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    if registry[1] is not None:
        return
    zero = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 0)
    table = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
    pointer = ctypes.c_void_p(ctypes.addressof(table))
    registry[1] = ctypes.addressof(pointer)
    torch._C._ensureCUDADeviceGuardSet()
    if registry[1] == ctypes.addressof(pointer):  # not taken
        registry[1] = None
