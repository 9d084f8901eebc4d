"""A network in a file, run by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..configuration import without_effect
from ..errors import DataError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxNetwork"]


@without_effect("path", "providers", "threads")
class OnnxNetwork(nn.Module):
    """Predict with a network exported by ``python -m monai.bundle onnx_export``, in the place of the network itself.

    It has no parameters and gives no gradients: what it computes is in the file. Inferers, which run a network without
    parameters where their input is, use it as any other. ``torch.autocast`` does not reach it.

    Args:
        path: the file, ``models/model.onnx``.
        providers: what runs it, ONNX Runtime's names, the preferred one first: ``CPUExecutionProvider`` in every build;
            ``CUDAExecutionProvider`` and others in builds of their own (``onnxruntime-gpu``).
        threads: threads for one call; by default as many as torch uses.

    Shape:
        Input and output as the exported network's: ``(B, C, H, W)`` or ``(B, C, D, H, W)`` of any floating type and on
        any device. The output is float32, on the input's device.

    Raises:
        DataError: onnxruntime is not installed or has no such provider; the file is missing or holds no network that
            takes one float32 tensor.
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
    options.log_severity_level = 3  # errors; one line per initializer it folds says nothing to a user
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has a kind of exception for each way to fail, none of them public
        raise DataError.of(path, f"an unreadable file ({type(error).__name__})", expected) from error
    inputs = [tensor.type for tensor in session.get_inputs()]
    if inputs != ["tensor(float)"]:
        raise DataError.of(path, f"inputs {', '.join(inputs) or 'of none'}", "one tensor(float)")
    return session
