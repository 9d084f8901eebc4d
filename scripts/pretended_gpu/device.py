"""The context in which ``cuda:0`` exists."""

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from monai.data import MetaTensor
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from . import meta_tensors
from .autocast import Autocast
from .existence import let_the_device_exist
from .operations import pin, pinned, run
from .record import STATE, Record
from .streams import streams
from .tensor import CUDA, PretendedTensor

TORCH = "2.13."
"""The version whose internals are replaced here."""
MEMORY = 80 * 2**30
"""Bytes of the device."""


def why_not() -> str | None:
    """Return why no GPU can be pretended here, or None if it can."""
    if not torch.__version__.startswith(TORCH):
        return f"a GPU is pretended with torch {TORCH}x only, found {torch.__version__}"
    if torch.backends.cuda.is_built():
        return "a GPU is pretended with torch's CPU build only"
    return None


class PretendedGPU(ExitStack):
    """Context in which ``torch.device("cuda")`` works on a machine without a GPU; gives a ``Record``.

    Tensors that are sent there say ``device == cuda:0``, and their numbers are computed on the CPU (``data="real"``),
    or not at all (``data="shapes"``), so that a step at full size takes a second and no memory. An operation that mixes
    devices raises torch's own error. Every wait of the host, copy, kernel, FLOP and byte is recorded.

    What it cannot see: kernels' choice and workspaces, fragmentation, the overlap of streams, NCCL. It replaces
    internals of one version of torch, and does so for the thread that enters the context, and autograd of it.

    Example::

        with PretendedGPU("shapes") as record:
            step()  # allocates the optimizer's state
            record.reset()
            step()
            print(record.waits, record.flops, record.seconds(H100))

    Args:
        data: ``real`` or ``shapes``.
        name: what the device says of itself.
        bf16: whether it says that it has bfloat16.

    Raises:
        RuntimeError: on entering, if another torch is installed.
    """

    def __init__(self, data: str = "real", *, name: str = "Pretended GPU", bf16: bool = True) -> None:
        super().__init__()
        self.inner = torch.device({"real": "cpu", "shapes": "meta"}[data])
        self.name, self.bf16 = name, bf16

    def __enter__(self) -> Record:
        if reason := why_not():
            raise RuntimeError(reason)
        super().__enter__()
        let_the_device_exist()
        STATE.record, STATE.inner = Record(), self.inner
        for name, value in {**self._properties(STATE.record), **streams(STATE.record)}.items():
            self._replace(torch.cuda, name, value)
        self._replace_internals()
        autocast = Autocast()
        self._replace(torch, "clear_autocast_cache", autocast.clearing(torch.clear_autocast_cache))
        self._replace(torch.autograd, "_engine_run_backward", _within(autocast, torch.autograd._engine_run_backward))
        self.enter_context(_Mode())
        self.enter_context(autocast)
        return STATE.record

    def _replace(self, where: Any, name: str, value: Any) -> None:
        self.enter_context(mock.patch.object(where, name, value))

    def _properties(self, record: Record) -> dict[str, Any]:
        """What ``torch.cuda`` says of the device."""
        properties = SimpleNamespace(total_memory=MEMORY, name=self.name, major=9, minor=0, multi_processor_count=132)
        return {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda *_: None,
            "synchronize": lambda *_: record.wait("synchronize"),
            "empty_cache": lambda: None,
            "get_device_name": lambda *_: self.name,
            "get_device_properties": lambda *_: properties,
            "get_device_capability": lambda *_: (properties.major, properties.minor),
            "is_bf16_supported": lambda including_emulation=True: self.bf16,
            "reset_peak_memory_stats": lambda *_: record.reset_peak(),
            **{f"max_memory_{kind}": lambda *_: record.peak for kind in ("allocated", "reserved")},
            **{f"memory_{kind}": lambda *_: record.now for kind in ("allocated", "reserved")},
            "mem_get_info": lambda *_: (MEMORY - record.now, MEMORY),
            "manual_seed_all": lambda *_: None,
            "manual_seed": lambda *_: None,
        }

    def _replace_internals(self) -> None:
        grouped = torch._C._group_tensors_by_device_and_dtype
        self._replace(torch._C, "_group_tensors_by_device_and_dtype", _grouping(grouped))
        self._replace(torch._tensor, "_convert", meta_tensors.converting(torch._tensor._convert))
        self._replace(MetaTensor, "__new__", staticmethod(meta_tensors.new(MetaTensor.__new__)))
        self._replace(torch.Tensor, "pin_memory", lambda tensor, *_: pin(tensor.clone()))
        self._replace(torch.Tensor, "is_pinned", lambda tensor, *_: pinned(tensor))
        for module in (_foreach_utils, optimizer):
            types = [*module._foreach_supported_types, PretendedTensor]
            self._replace(module, "_foreach_supported_types", types)
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1, device=...) then copies from the host, as it does
        self.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {})


def _within(context: Autocast, original: Callable) -> Callable:
    """``original`` in a context: what is recomputed in backward is cast as well."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with context:
            return original(*args, **kwargs)

    return call


def _grouping(original: Callable) -> Callable:
    """Let optimizers group tensors of ours under the device that they name."""

    def group(tensors: Any, with_indices: bool = False) -> dict:
        return {
            (CUDA if device is not None and device.type == "meta" else device, dtype): value
            for (device, dtype), value in original(tensors, with_indices).items()
        }

    return group
