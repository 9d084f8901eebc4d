"""Networks run by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..configuration import without_effect
from ..errors import DataError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@without_effect("path", "providers", "threads")
class OnnxNetwork(nn.Module):
    """Inference with a network exported by ``python -m monai.bundle onnx_export``, in place of the original network.

    It has no parameters and no gradients, and is not affected by ``torch.autocast``.

    Example: ``{"_target_": "custom.networks.OnnxNetwork", "path": "models/model.onnx"}``

    Args:
        providers: ONNX Runtime's execution providers in order of preference: ``CPUExecutionProvider`` is in every
            build; ``CUDAExecutionProvider`` and others need special builds (``onnxruntime-gpu``).
        threads: number of threads per call; by default as many as torch uses.

    Shape:
        As the exported network's: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, of any floating type and on any device. The
        output is float32, on the input's device.

    Raises:
        DataError: onnxruntime is not installed or lacks a provider; the file is missing or contains no network with one
            float32 input.
    """

    def __init__(
        self, *, path: str, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int | None = None
    ) -> None:
        super().__init__()
        self.session = _open(Path(path), list(providers), torch.get_num_threads() if threads is None else threads)
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        array = x.detach().to("cpu", torch.float32).contiguous().numpy()
        output = self.session.run(None, {self.input_name: array})[0]
        return torch.from_numpy(output).to(x.device)


def _open(path: Path, providers: list[str], threads: int) -> "InferenceSession":
    expected = "a network exported by python -m monai.bundle onnx_export"
    if not path.is_file():
        raise DataError.of(path, "no such file", expected)
    try:
        import onnxruntime
    except ImportError as error:
        raise DataError.of(path, "no onnxruntime to run it", "it installed (pip install onnxruntime)") from error
    missing = set(providers) - set(onnxruntime.get_available_providers())
    if missing or not providers:
        found = f"providers {', '.join(sorted(missing)) or 'of none'}"
        raise DataError.of(path, found, f"some of {', '.join(onnxruntime.get_available_providers())}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exception types are not public
        raise DataError.of(path, f"an unreadable file ({type(error).__name__})", expected) from error
    inputs = [tensor.type for tensor in session.get_inputs()]
    if inputs != ["tensor(float)"]:
        raise DataError.of(path, f"inputs {', '.join(inputs) or 'of none'}", "one tensor(float)")
    return session
