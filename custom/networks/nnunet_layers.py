"""Layers of nnU-Net's networks, chosen by the architecture in its plans, with the names of its parameters."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import DataError

CONVOLUTIONS = {
    "Conv2d": (nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d),
    "Conv3d": (nn.Conv3d, nn.ConvTranspose3d, nn.AvgPool3d),
}
NORMS = {layer.__name__: layer for layer in (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d)}
NONLINEARITIES = {layer.__name__: layer for layer in (nn.LeakyReLU, nn.ReLU, nn.GELU, nn.SiLU)}
UNSUPPORTED = ("dropout_op", "nonlin_first", "block", "bottleneck_channels", "stem_channels")
"""Arguments that change the network and that plans leave at their defaults."""


class Layers:
    """Constructors of the layers that an architecture names.

    Args:
        architecture: ``arch_kwargs`` of nnU-Net's plans: layers by their Python path, the numbers per stage as lists.
        blocks: key of the number of convolutions or blocks of each stage of the encoder.

    Raises:
        DataError: an argument is missing, unknown or not supported.
    """

    def __init__(self, architecture: Mapping[str, Any], blocks: str) -> None:
        _check_keys(architecture, blocks)
        stages = architecture["n_stages"]
        self.convolution, self.transposed, self.pooling = _known(architecture, "conv_op", CONVOLUTIONS)
        self.ones = (1,) * (2 if self.convolution is nn.Conv2d else 3)
        self.norm = _known(architecture, "norm_op", NORMS)
        self.norm_kwargs = dict(architecture.get("norm_op_kwargs") or {})
        self.nonlinearity = _known(architecture, "nonlin", NONLINEARITIES)
        self.nonlinearity_kwargs = dict(architecture.get("nonlin_kwargs") or {})
        self.bias = bool(architecture["conv_bias"])
        self.features = _per_stage(architecture["features_per_stage"], stages)
        self.kernels = [self._each_axis(kernel) for kernel in _per_stage(architecture["kernel_sizes"], stages)]
        self.strides = [self._each_axis(stride) for stride in _per_stage(architecture["strides"], stages)]
        self.blocks = _per_stage(architecture[blocks], stages)
        self.decoder_blocks = _per_stage(architecture["n_conv_per_stage_decoder"], stages - 1)

    def _each_axis(self, value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * len(self.ones) if isinstance(value, int) else tuple(value)

    def nonlinear(self) -> nn.Module:
        return self.nonlinearity(**self.nonlinearity_kwargs)


def _check_keys(architecture: Mapping[str, Any], blocks: str) -> None:
    needed = {"n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", blocks}
    needed |= {"n_conv_per_stage_decoder", "conv_bias", "norm_op", "nonlin"}
    optional = {"norm_op_kwargs", "nonlin_kwargs", "dropout_op_kwargs", *UNSUPPORTED}
    if missing := needed - architecture.keys():
        raise DataError.of("architecture", f"no {', '.join(sorted(missing))}", "the arch_kwargs of nnU-Net's plans")
    unknown = architecture.keys() - needed - optional
    unknown |= {key for key in UNSUPPORTED if architecture.get(key)}
    if unknown:
        found = ", ".join(f"{key}: {architecture[key]!r}" for key in sorted(unknown))
        raise DataError.of("architecture", found, f"no other arguments than {', '.join(sorted(needed))}")


def _known(architecture: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    """Return the layer of a Python path such as ``torch.nn.modules.conv.Conv3d``."""
    name = str(architecture[key]).rpartition(".")[2]
    if name not in known:
        raise DataError.of(f"architecture: {key}", repr(architecture[key]), f"one of {', '.join(known)}")
    return known[name]


def _per_stage(value: int | Sequence, stages: int) -> list:
    values = [value] * stages if isinstance(value, int) else list(value)
    if len(values) != stages:
        raise DataError.of("architecture", f"{len(values)} values ({values})", f"{stages}, one a stage")
    return values


def conv_block(
    layers: Layers,
    inputs: int,
    outputs: int,
    *,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    bias: bool | None = None,
    activate: bool = True,
) -> nn.Sequential:
    """Return convolution, normalisation and, if ``activate``, nonlinearity."""
    padding = [(length - 1) // 2 for length in kernel]
    bias = layers.bias if bias is None else bias
    parts = OrderedDict(
        conv=layers.convolution(inputs, outputs, tuple(kernel), stride or layers.ones, padding, bias=bias),
        norm=layers.norm(outputs, **layers.norm_kwargs),
        nonlin=layers.nonlinear() if activate else nn.Identity(),
    )
    return nn.Sequential(parts)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip that pools and projects where sizes differ (ResNet-D, arXiv 1812.01187)."""

    def __init__(
        self, layers: Layers, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = conv_block(layers, inputs, outputs, kernel=kernel, stride=stride)
        self.conv2 = conv_block(layers, outputs, outputs, kernel=kernel, activate=False)
        self.nonlin2 = layers.nonlinear()
        # ceil_mode gives the size of a strided convolution, also in an export with variable sizes
        skip: list[nn.Module] = [] if max(stride) == 1 else [layers.pooling(stride, stride, ceil_mode=True)]
        if inputs != outputs:
            skip.append(conv_block(layers, inputs, outputs, kernel=layers.ones, bias=False, activate=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


def repeated(
    name: str,
    block: Callable[..., nn.Module],
    layers: Layers,
    inputs: int,
    outputs: int,
    *,
    count: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
) -> nn.Sequential:
    """Return several blocks, whose parameters are those of ``name``; the stride is that of the first."""
    first = block(layers, inputs, outputs, kernel=kernel, stride=stride or layers.ones)
    others = (block(layers, outputs, outputs, kernel=kernel, stride=layers.ones) for _ in range(count - 1))
    return nn.Sequential(OrderedDict({name: nn.Sequential(first, *others)}))
