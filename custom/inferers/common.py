"""What the inferers have in common: devices, precision, and checks of the output."""

import copy
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from torch import nn

from ..errors import DataError
from ..system.gpu import check_gpu
from .instance_norm import InstanceNormAsGroupNorm
from .narrow_convolutions import NarrowConvolutionsInFloat32

ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: torch.softmax(logits, dim=1),
    None: lambda logits: logits,
}
logger = logging.getLogger(__name__)

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_option(name: str, value: str | None, known: Collection[str | None]) -> None:
    """Raise a DataError for a value that is not among the known ones."""
    if value not in known:
        raise DataError.of(name, repr(value), f"one of {', '.join(map(str, known))}")


def check_precision(precision: str) -> None:
    """Raise a DataError for an unknown ``precision``."""
    check_option("precision", precision, ["auto", *PRECISIONS])


@contextmanager
def autocast_to(precision: str, device: torch.device) -> Iterator[torch.dtype | None]:
    """Context in which torch autocasts to a precision; yields the data type, or None for float32.

    Leaving the outermost of these contexts clears the cache of converted weights.

    Raises:
        DataError: torch does not serve the GPU.
    """
    check_gpu(device)
    dtype = fast_dtype(device) if precision == "auto" else PRECISIONS[precision]
    if dtype is None:
        yield None
        return
    with ExitStack() as contexts:
        contexts.enter_context(torch.autocast(device.type, dtype=dtype))
        if device.type == "cpu":
            contexts.enter_context(InstanceNormAsGroupNorm())
            contexts.enter_context(NarrowConvolutionsInFloat32())
        yield dtype


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that is faster than float32 on the device, if any."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, may be removed
        return torch.bfloat16 if supported is not None and supported() else None
    return None


def device_of(network: Callable, inputs: torch.Tensor) -> torch.device:
    """Return the device of the network's parameters; of the input, if the network has none."""
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return inputs.device if parameter is None else parameter.device


def predict_finite(inferer: Any, predict: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """Predict, and repeat the prediction in float32 if a value overflowed in 16 bits.

    Args:
        predict: called with the inferer; the second time with a copy of it in float32.

    Raises:
        DataError: a value is not finite in float32 either.
    """
    output = predict(inferer)
    while not output.sum().isfinite():
        inferer = in_float32(inferer)
        output = predict(inferer)
    return output


def in_float32(inferer: Any) -> Any:
    """Return a copy of an inferer in float32, to repeat a prediction that is not finite.

    Raises:
        DataError: it was in float32 already. A threshold would turn its values into background silently.
    """
    if inferer.precision == "float32":
        raise DataError.of(
            "the network's prediction", "values that are not finite", "finite ones; the weights may have diverged"
        )
    logger.warning("a prediction with precision %s is not finite: it is made again in float32", inferer.precision)
    wide = copy.copy(inferer)
    wide.precision = "float32"
    return wide


def with_metadata_of(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor | MetaTensor:
    """Return the output with the metadata of the input, if it has any, for ``Invertd`` and writers."""
    if not isinstance(inputs, MetaTensor):
        return output
    # an empty tensor, so that dtype and device of the input are not copied
    metadata = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(output, metadata, dtype=output.dtype, device=output.device)[0]
