"""What the inferers share: where a network runs, in which precision, and what becomes of its output."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

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
AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def check_option(name: str, values: Sequence[str | None], known: Sequence[str | None]) -> None:
    """
    Raises:
        ValueError: when a value is not known.
    """
    for value in values:
        if value not in known:
            raise ValueError(f"{name} must be of {', '.join(map(str, known))}, found {value!r}")


def check_amp(amp: str | None) -> None:
    """
    Raises:
        ValueError: when this is not a value of the inferers' argument ``amp``.
    """
    check_option("amp", [amp], [*AMP_DTYPES, "auto", None])


@contextmanager
def autocast_to(amp: str | None, device: torch.device) -> Iterator[torch.dtype | None]:
    """Run what is inside in the precision that ``amp`` names; gives the type, or None where nothing is changed.

    Leaving the outermost of these contexts forgets the converted weights.
    """
    dtype = fast_dtype(device) if amp == "auto" else AMP_DTYPES.get(amp)
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
    """
    Raises:
        DataError: a value is not finite. Thresholds would take it for background without a word.
    """
    if not output.sum().isfinite():
        raise DataError.of(
            "the network's prediction", "values that are not finite", "finite ones; float16 may be too narrow: amp None"
        )


def with_metadata_of(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor | MetaTensor:
    """The output with the metadata of the input, if that has any, so that ``Invertd`` and writers work on it."""
    if not isinstance(inputs, MetaTensor):
        return output
    # an empty tensor carries the metadata, lest the input's dtype and device come along
    metadata = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(output, metadata, dtype=output.dtype, device=output.device)[0]
