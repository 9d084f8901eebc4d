"""The two architectures of nnU-Net (Isensee et al., Nature Methods 2021; residual encoders: arXiv 2404.09556)."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import DataError
from .nnunet_layers import Layers, ResidualBlock, conv_block, repeated
from .sizes import check_sizes

_SLOPE = 1e-2
"""Slope of the leaky ReLU for which weights are initialised."""


def without_duplicates(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of nnU-Net with each tensor once.

    nnU-Net registers the encoder within the decoder again (``decoder.encoder``), and the layers of each block in a
    list (``all_modules``), so that its files name a convolution's weight up to four times.

    Raises:
        DataError: two tensors that are one in nnU-Net differ.
    """
    unique: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^(.*\.)?decoder\.encoder\.", r"\1encoder.", key)
        name = name.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")
        kept = unique.setdefault(name, value)
        if kept is not value and not torch.equal(kept, value):
            raise DataError.of(key, "other values than those of " + name, "a duplicate of it, as in nnU-Net's files")
    return unique


class _Encoder(nn.Module):
    """Returns the features of all stages, the finest first."""

    def __init__(self, layers: Layers, inputs: int, *, residual: bool) -> None:
        super().__init__()
        self.stem = nn.Identity()
        if residual:
            features = layers.features[0]
            self.stem = repeated("convs", conv_block, layers, inputs, features, count=1, kernel=layers.kernels[0])
            inputs = features
        stages = []
        for outputs, count, kernel, stride in zip(
            layers.features, layers.blocks, layers.kernels, layers.strides, strict=True
        ):
            sizes = {"count": count, "kernel": kernel, "stride": stride}
            if residual:
                stages.append(repeated("blocks", ResidualBlock, layers, inputs, outputs, **sizes))
            else:
                stages.append(nn.Sequential(repeated("convs", conv_block, layers, inputs, outputs, **sizes)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        features: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _Decoder(nn.Module):
    """Returns logits, the finest first; in evaluation mode the finest only."""

    def __init__(self, layers: Layers, out_channels: int, *, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        stages, upsampling, heads = [], [], []
        for level in reversed(range(len(layers.features) - 1)):
            below, features, stride = layers.features[level + 1], layers.features[level], layers.strides[level + 1]
            count = layers.decoder_blocks[len(stages)]
            upsampling.append(layers.transposed(below, features, stride, stride, bias=layers.bias))
            kernel = layers.kernels[level]
            stages.append(repeated("convs", conv_block, layers, 2 * features, features, count=count, kernel=kernel))
            heads.append(layers.convolution(features, out_channels, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(upsampling)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        level = len(features) - 1
        x = features[level]
        outputs: list[torch.Tensor] = []
        for upsample, stage, head in zip(self.transpconvs, self.stages, self.seg_layers):  # noqa: B905 (TorchScript)
            level -= 1
            x = stage(torch.cat([upsample(x), features[level]], 1))
            if level == 0 or (self.training and self.deep_supervision):
                outputs.append(head(x))
        return outputs[::-1]


class NnunetUNet(nn.Module):
    """Base of nnU-Net's networks; a subclass says whether the encoder is residual."""

    residual: bool

    def __init__(
        self, *, in_channels: int, out_channels: int, architecture: dict[str, Any], deep_supervision: bool = True
    ) -> None:
        super().__init__()
        layers = Layers(architecture, "n_blocks_per_stage" if self.residual else "n_conv_per_stage")
        self.encoder = _Encoder(layers, in_channels, residual=self.residual)
        self.decoder = _Decoder(layers, out_channels, deep_supervision=deep_supervision)
        self.deep_supervision = deep_supervision
        self.divisors = [math.prod(strides) for strides in zip(*layers.strides, strict=True)]
        self.apply(_initialize)

    def forward(self, image: torch.Tensor):
        if not torch.jit.is_scripting() and self.training:
            check_sizes(list(image.shape[2:]), self.divisors)
        outputs = self.decoder(self.encoder(image))
        if not torch.jit.is_scripting() and self.training and self.deep_supervision:
            return outputs
        return outputs[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
        state_dict.update(without_duplicates(own))
        super()._load_from_state_dict(state_dict, prefix, *args)


class PlainConvUNet(NnunetUNet):
    """nnU-Net's U-Net of plain convolutions, 2-D or 3-D.

    State dicts have nnU-Net's keys without the duplicates (:func:`without_duplicates`); nnU-Net's own can be loaded.

    Example: ``{"_target_": "custom.networks.PlainConvUNet", "in_channels": 1, "out_channels": 2, "architecture":
    {"n_stages": 2, "features_per_stage": [32, 64], "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": 3,
    "strides": [1, 2], "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2, "conv_bias": true, "norm_op":
    "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": true}, "nonlin":
    "torch.nn.LeakyReLU"}}``

    Args:
        out_channels: classes including background, or regions.
        architecture: ``arch_kwargs`` of ``plans.json``.

    Shape:
        Input ``(B, C, [D,] H, W)``, sizes being multiples of the product of the strides; output ``(B, out_channels,
        [D,] H, W)``, in training mode with deep supervision a list from the finest level to the coarsest.

    Raises:
        DataError: an argument of the architecture is missing, unknown or not supported; in training mode, a size is not
            a multiple.
    """

    residual = False


class ResidualEncoderUNet(NnunetUNet):
    """nnU-Net's U-Net with a residual encoder, 2-D or 3-D.

    Arguments, shapes, state dict and errors as of :class:`PlainConvUNet`, with ``n_blocks_per_stage`` instead of
    ``n_conv_per_stage`` in the architecture.

    Example: ``{"_target_": "custom.networks.ResidualEncoderUNet", "in_channels": 1, "out_channels": 2,
    "architecture": "@architecture"}``
    """

    residual = True


def _initialize(module: nn.Module) -> None:
    """He's initialisation; residual blocks start as their skip, as in nnU-Net."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock) and module.conv2.norm.weight is not None:
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)
