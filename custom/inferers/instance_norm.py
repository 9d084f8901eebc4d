"""Instance normalisation that leaves channels last."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class InstanceNormAsGroupNorm(TorchFunctionMode):
    """Within this context, torch normalises instances as groups of one channel each, which is the same by definition.

    On a CPU, torch 2.13 brings a channels-last input of ``instance_norm`` into the contiguous order and leaves it
    there, so that the next convolution must bring it back; its ``group_norm`` works in either order. For the surface
    bundle's network in bfloat16 that is a quarter of the time. Networks and their weights stay as they are.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_normalized if func is F.instance_norm else func)(*args, **(kwargs or {}))


def _normalized(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As :func:`torch.nn.functional.instance_norm`, whose statistics may also be those of the training."""
    if running_mean is not None or not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return F.group_norm(input, input.shape[1], weight, bias, eps)
