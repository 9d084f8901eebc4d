"""Automatic mixed precision on any device."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from ..configuration import without_effect
from ..system.gpu import check_gpu
from .common import PRECISIONS, check_precision, device_of, fast_dtype


@without_effect("device")
class AutocastInferer(Inferer):
    """Runs a network under ``torch.autocast`` on any device, and returns float32.

    MONAI's engines autocast on CUDA only. Losses, metrics and the blending of windows are computed in float32. Training
    in float16 needs MONAI's ``GradScaler``: set ``"amp": "$@train#inferer.scales_gradients"`` in the trainer, with
    ``"amp_kwargs": {"enabled": false}`` so that MONAI does not cast the loss as well.

    Example: ``{"_target_": "custom.inferers.AutocastInferer", "precision": "bfloat16", "device": "@device"}``

    Args:
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: on CUDA the 16-bit type with hardware
            support (bfloat16 if possible), on a CPU float32.
        device: where the network will run, for ``"auto"``.
        inferer: how to apply the network; by default to the whole input at once.

    Raises:
        DataError: an unknown precision, or a GPU that this build of torch does not serve.

    Shape:
        as the inferer's; a network may return several tensors in a list, tuple or dictionary.
    """

    def __init__(
        self, *, precision: str = "auto", device: str | torch.device = "cpu", inferer: Inferer | None = None
    ) -> None:
        super().__init__()
        check_precision(precision)
        device = torch.device(device)
        check_gpu(device)
        automatic = fast_dtype(device) if device.type == "cuda" else None
        self.dtype = automatic if precision == "auto" else PRECISIONS[precision]
        self.scales_gradients = self.dtype is torch.float16
        """Whether a ``GradScaler`` is needed to keep small gradients from underflowing."""
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def float32_network(*network_args: Any, **network_kwargs: Any) -> Any:
            return _float32(network(*network_args, **network_kwargs))

        # around all windows, since leaving the context clears the cache of converted weights
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
