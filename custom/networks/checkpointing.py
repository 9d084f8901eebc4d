"""Activation checkpointing: parts of a network are recomputed in the backward pass to save memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from ..errors import DataError


def checkpoint_activations(network: torch.nn.Module, *, names: Sequence[str]) -> torch.nn.Module:
    """Checkpoint those modules of a network that are selected by name; modifies and returns the network.

    Most memory is used at the finest levels, so choose those: in SegResNetDS ``encoder.layers.0.blocks``,
    ``encoder.layers.1.blocks``, ``up_layers.1.blocks`` and ``up_layers.2.blocks``. Checkpointing a single convolution
    saves nothing, since its input is kept either way.

    Outputs, gradients, normalisation statistics and keys of the state dict are unchanged. Only training-mode passes
    with gradients are checkpointed. The network can be copied, pickled and compiled; TorchScript needs the original
    network.

    Example: ``checkpoint_activations(network, names=["encoder.layers.0.blocks", "up_layers.2.blocks"])``

    Args:
        names: names of submodules as in ``network.named_modules()``, or patterns (``up_layers.*.blocks``). Of nested
            modules only the outermost is checkpointed.

    Raises:
        DataError: a name matches no module.
        ValueError: a name is that of a container that is never called itself, such as a ModuleList.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    chosen: dict[str, torch.nn.Module] = {}
    for pattern in names:
        found = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
        if not found:
            found = f"no module called {pattern!r} in {type(network).__name__}"
            raise DataError.of("checkpointing of activations", found, "names of this network's modules")
        chosen |= found
    for name, module in chosen.items():
        if type(module).forward is torch.nn.Module.forward:
            raise ValueError(f"{name} is a {type(module).__name__}, which is never called; name the modules inside it")
        if not any(name.startswith(f"{other}.") for other in chosen):
            # A partial instead of a closure, so that deepcopy and pickle bind a copy's forward to the copy.
            module.forward = partial(_forward, module)
    return network


def _forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(module).forward, module)
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # which recomputes without side effects, and takes no contexts
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    contexts = partial(_contexts, module)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(module: torch.nn.Module) -> tuple:
    return nullcontext(), _without_running_statistics(module)


@contextmanager
def _without_running_statistics(module: torch.nn.Module) -> Iterator[None]:
    """Context in which batch norm updates copies of its statistics: recomputing must not count a batch twice."""
    buffers = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _NormBase)
        for name, buffer in norm._buffers.items()
        if buffer is not None
    ]
    for norm, name, buffer in buffers:
        norm._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for norm, name, buffer in buffers:
            norm._buffers[name] = buffer
