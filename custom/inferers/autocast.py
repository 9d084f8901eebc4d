"""One key for the precision of a network, wherever it runs."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from ..configuration import without_effect
from .common import PRECISIONS, check_precision, device_of, fast_dtype


@without_effect("device")
class AutocastInferer(Inferer):
    """Runs a network under ``torch.autocast``, on whatever device it is, and returns float32.

    MONAI's engines cast on CUDA only. Losses, metrics and the blending of windows stay outside and see float32. In
    training in float16 the engine needs MONAI's ``GradScaler``: ``"amp": "$@train#inferer.scales_gradients"``, with
    ``"amp_kwargs": {"enabled": false}`` so that MONAI does not cast the loss too.

    Args:
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: the faster type of 16 bits that a CUDA
            device has instructions for, float32 on a CPU, where training in bfloat16 is not faster.
        device: where the network will run; for ``"auto"``.
        inferer: how the network sees the input; by default all of it at once.

    Shape:
        as the inferer's; a network that returns several tensors (a list, tuple or dictionary) keeps doing so.
    """

    def __init__(
        self, *, precision: str = "auto", device: str | torch.device = "cpu", inferer: Inferer | None = None
    ) -> None:
        super().__init__()
        check_precision(precision)
        device = torch.device(device)
        automatic = fast_dtype(device) if device.type == "cuda" else None
        self.dtype = automatic if precision == "auto" else PRECISIONS[precision]
        self.scales_gradients = self.dtype is torch.float16
        """Whether gradients need a ``GradScaler``, lest small ones become 0."""
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def float32_network(*network_args: Any, **network_kwargs: Any) -> Any:
            return _float32(network(*network_args, **network_kwargs))

        # around all windows, since leaving the context forgets the converted weights
        with torch.autocast(device_of(network, inputs).type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.inferer(inputs, float32_network, *args, **kwargs)


def _float32(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return {key: _float32(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(_float32(value) for value in output)
    return output
