"""Layers of nnU-Net's networks, chosen by the architecture in its plans, with the names of its parameters."""

from collections.abc import Mapping, Sequence
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
        self.spatial_dims = 2 if self.convolution is nn.Conv2d else 3
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
        return (value,) * self.spatial_dims if isinstance(value, int) else tuple(value)

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


class ConvBlock(nn.Module):
    """Convolution, normalisation and, if ``activate``, nonlinearity."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
        bias: bool | None = None,
        activate: bool = True,
    ) -> None:
        super().__init__()
        padding = [(length - 1) // 2 for length in kernel]
        bias = layers.bias if bias is None else bias
        self.conv = layers.convolution(inputs, outputs, tuple(kernel), stride, padding, bias=bias)
        self.norm = layers.norm(outputs, **layers.norm_kwargs)
        self.nonlin = layers.nonlinear() if activate else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlin(self.norm(self.conv(x)))


class ConvBlocks(nn.Module):
    """Several :class:`ConvBlock`; the stride is that of the first."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        count: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
    ) -> None:
        super().__init__()
        first = ConvBlock(layers, inputs, outputs, kernel=kernel, stride=stride)
        self.convs = nn.Sequential(
            first, *(ConvBlock(layers, outputs, outputs, kernel=kernel) for _ in range(count - 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip that pools and projects where sizes differ (ResNet-D, arXiv 1812.01187)."""

    def __init__(
        self, layers: Layers, inputs: int, outputs: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = ConvBlock(layers, inputs, outputs, kernel=kernel, stride=stride)
        self.conv2 = ConvBlock(layers, outputs, outputs, kernel=kernel, activate=False)
        self.nonlin2 = layers.nonlinear()
        # ceil_mode gives the size of a strided convolution, also in an export with variable sizes
        skip: list[nn.Module] = [] if max(stride) == 1 else [layers.pooling(stride, stride, ceil_mode=True)]
        if inputs != outputs:
            ones = (1,) * layers.spatial_dims
            skip.append(ConvBlock(layers, inputs, outputs, kernel=ones, bias=False, activate=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


class ResidualBlocks(nn.Module):
    """Several :class:`ResidualBlock`; the stride is that of the first."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        count: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        first = ResidualBlock(layers, inputs, outputs, kernel=kernel, stride=stride)
        ones = (1,) * layers.spatial_dims
        others = (ResidualBlock(layers, outputs, outputs, kernel=kernel, stride=ones) for _ in range(count - 1))
        self.blocks = nn.Sequential(first, *others)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)
