"""What the inferers share: where a network runs, in which precision, and what becomes of its output."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from torch import nn

from ..errors import DataError
from .instance_norm import InstanceNormAsGroupNorm

ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: torch.softmax(logits, dim=1),
    None: lambda logits: logits,
}
logger = logging.getLogger(__name__)

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_option(name: str, values: Sequence[str | None], known: Sequence[str | None]) -> None:
    """Refuse values that are not among the known ones.

    Raises:
        ValueError: when a value is not known.
    """
    for value in values:
        if value not in known:
            raise ValueError(f"{name} must be of {', '.join(map(str, known))}, found {value!r}")


def check_precision(precision: str) -> None:
    """Refuse a precision that is not known.

    Raises:
        ValueError: when this is not a value of the inferers' argument ``precision``.
    """
    check_option("precision", [precision], ["auto", *PRECISIONS])


@contextmanager
def autocast_to(precision: str, device: torch.device) -> Iterator[torch.dtype | None]:
    """Run what is inside in a precision; gives the type, or None where nothing is changed.

    Leaving the outermost of these contexts forgets the converted weights.
    """
    dtype = fast_dtype(device) if precision == "auto" else PRECISIONS[precision]
    if dtype is None:
        yield None
        return
    on_cpu = device.type == "cpu"
    with torch.autocast(device.type, dtype=dtype), InstanceNormAsGroupNorm() if on_cpu else nullcontext():
        yield dtype


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """The type of 16 bits that is faster than float32 there, if any."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so it may go
        return torch.bfloat16 if supported is not None and supported() else None
    return None


def device_of(network: Callable, inputs: torch.Tensor) -> torch.device:
    """Where the network's parameters are; where the input is, for a network without any."""
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return inputs.device if parameter is None else parameter.device


def check_finite(output: torch.Tensor) -> None:
    """Refuse a prediction with values that are not finite.

    Raises:
        DataError: a value is not finite. Thresholds would take it for background without a word.
    """
    if not output.sum().isfinite():
        raise DataError.of(
            "the network's prediction", "values that are not finite", "finite ones; the weights may have diverged"
        )


class WithPrecision(Protocol):
    """An inferer that chooses its precision."""

    precision: str


Narrow = TypeVar("Narrow", bound=WithPrecision)


def predict_finite(inferer: Narrow, predict: Callable[[Narrow], torch.Tensor]) -> torch.Tensor:
    """A prediction, made a second time in float32 where a value of it was too large for 16 bits.

    Args:
        inferer: with ``precision``.
        predict: called with the inferer, and the second time with one that is like it but in float32.

    Raises:
        DataError: a value is not finite in float32 either.
    """
    output = predict(inferer)
    if inferer.precision != "float32" and not output.sum().isfinite():
        logger.warning("a prediction with precision %s is not finite: it is made again in float32", inferer.precision)
        wide = copy.copy(inferer)
        wide.precision = "float32"
        output = predict(wide)
    check_finite(output)
    return output


def with_metadata_of(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor | MetaTensor:
    """The output with the metadata of the input, if that has any, so that ``Invertd`` and writers work on it."""
    if not isinstance(inputs, MetaTensor):
        return output
    # an empty tensor carries the metadata, lest the input's dtype and device come along
    metadata = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(output, metadata, dtype=output.dtype, device=output.device)[0]
