"""U-Net++ with the encoders in MONAI's ``FLEXUNET_BACKBONE``."""

from collections.abc import Sequence

import torch
from monai.networks.blocks.activation import MemoryEfficientSwish
from monai.networks.layers.utils import get_pool_layer
from monai.networks.nets.basic_unet import TwoConv
from monai.networks.nets.efficientnet import EfficientNet
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE, SegmentationHead
from monai.networks.nets.resnet import ResNet
from torch import nn
from torch.nn import functional as F

from ..errors import DataError
from .encoder_weights import imagenet_state_dict, load_encoder_weights, read_encoder_weights

# Layers used for classification only. DistributedDataParallel does not accept parameters without gradient.
_CLASSIFIER_PARTS = {
    EfficientNet: ("_conv_head", "_conv_head_padding", "_bn1", "_avg_pooling", "_dropout", "_fc"),
    ResNet: ("avgpool", "fc"),
}


class FlexibleUNetPlusPlus(nn.Module):
    """U-Net++ (nested U-Net with dense skip pathways) with a classification encoder.

    With E^0 ... E^L the encoder's feature maps, each half the size of the one before and E^0 half the input's size, the
    nodes are X^{i,0} = E^i and X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, up(X^{i+1,j-1})]), H being two 3x3 convolutions.
    X^{0,L} is upsampled to the input's size, followed by another pair of convolutions and the head.

    Source: Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation" (2018) and "UNet++:
    Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation" (2020).

    Example: ``{"_target_": "custom.networks.FlexibleUNetPlusPlus", "backbone": "efficientnet-b4", "out_channels": 2}``

    Args:
        backbone: a name in ``FLEXUNET_BACKBONE``: ``efficientnet-b0`` to ``b8`` and ``l2``, ``resnet10`` to
            ``resnet200``.
        decoder_channels: width of the nodes from the coarsest level with nodes (E^{L-1}) to the finest (E^0), and
            finally the width at full size: as many numbers as the encoder has feature maps.
        encoder_weights: None for random weights; ``"imagenet"`` for weights downloaded by MONAI (2-D
            ``efficientnet-b0`` to ``b7``); or the path of a local file, see :func:`.read_encoder_weights`.
        norm: normalisation of the decoder and, if configurable (EfficientNet), of the encoder, in MONAI's format. With
            a momentum of 0.1 running statistics converge within tens of steps; MONAI's EfficientNet has 0.01 by
            default, which takes hundreds.

    Shape:
        Input ``(B, in_channels, H, W)`` or ``(B, in_channels, D, H, W)`` of any size: it is padded at the end of each
        axis, with the edge's values, to a multiple of ``2 ** (L + 1)`` (32 for all of MONAI's encoders), and the output
        is cropped. Output ``(B, out_channels, ...)`` of the input's spatial size.

    In training with batch norm, the coarsest feature map needs more than one value per channel: a single 32x32 image is
    too small.

    Raises:
        ValueError: an unknown backbone, a wrong number of widths, or ``encoder_weights="imagenet"`` for an encoder
            without them.
        DataError: a weights file that is missing, unreadable, or does not match the encoder.
    """

    def __init__(
        self,
        *,
        backbone: str = "efficientnet-b4",
        in_channels: int = 1,
        out_channels: int = 1,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        encoder_weights: str | None = None,
        spatial_dims: int = 2,
        norm: str | Sequence = ("batch", {"eps": 1e-3, "momentum": 0.1}),
        act: str | Sequence = ("relu", {"inplace": True}),
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, found {spatial_dims}")
        if backbone not in FLEXUNET_BACKBONE.register_dict:
            raise DataError(f"unknown backbone {backbone!r}, known are {', '.join(FLEXUNET_BACKBONE.register_dict)}")
        encoder_channels = FLEXUNET_BACKBONE.register_dict[backbone]["feature_channel"]
        if len(decoder_channels) != len(encoder_channels):
            raise ValueError(
                f"decoder_channels must hold {len(encoder_channels)} numbers for {backbone}, found {decoder_channels}"
            )
        # MONAI's layer factories need tuples instead of JSON's lists
        norm, act = (tuple(x) if isinstance(x, list) else x for x in (norm, act))

        self.encoder = _build_encoder(backbone, in_channels, spatial_dims, norm)
        if encoder_weights is not None:
            is_name = encoder_weights == "imagenet"
            weights = imagenet_state_dict(backbone, spatial_dims) if is_name else read_encoder_weights(encoder_weights)
            ignored = _classifier_parts(self.encoder)
            load_encoder_weights(self.encoder, weights, source=encoder_weights, ignored=ignored)

        *node_channels, final_channels = decoder_channels
        node_channels = node_channels[::-1]
        style = {"spatial_dims": spatial_dims, "act": act, "norm": norm, "bias": False}
        self.decoder = NestedDecoder(encoder_channels=encoder_channels, node_channels=node_channels, **style)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.final = TwoConv(in_chns=node_channels[0], out_chns=final_channels, **style)
        self.head = SegmentationHead(spatial_dims, final_channels, out_channels)
        self.divisor = 2 ** len(encoder_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        finest = self.decoder(self.encoder(_pad_to_multiple(x, self.divisor)))  # X^{0,L}
        return _crop(self.head(self.final(self.upsample(finest))), x.shape[2:])


class NestedDecoder(nn.Module):
    """The nodes X^{i,j}, j >= 1, of U-Net++; ``columns[j - 1][i]`` is X^{i,j}.

    Args:
        encoder_channels: channels of E^0 ... E^L.
        node_channels: channels of the nodes of levels 0 ... L - 1.
        style: further arguments of MONAI's ``TwoConv``, the same for all nodes.

    Shape: takes the list E^0 ... E^L and returns X^{0,L}.
    """

    def __init__(self, *, encoder_channels: Sequence[int], node_channels: Sequence[int], **style) -> None:
        super().__init__()
        depth = len(node_channels)
        self.columns = nn.ModuleList()
        for j in range(1, depth + 1):
            column = nn.ModuleList()
            for i in range(depth + 1 - j):
                from_row = encoder_channels[i] + (j - 1) * node_channels[i]
                from_below = encoder_channels[i + 1] if j == 1 else node_channels[i + 1]
                column.append(_Node(in_chns=from_row + from_below, out_chns=node_channels[i], **style))
            self.columns.append(column)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        rows = [[feature] for feature in features]
        for j, column in enumerate(self.columns):
            for i, node in enumerate(column):
                rows[i].append(node(rows[i], rows[i + 1][j]))
        return rows[0][-1]


class _Node(nn.Module):
    """One node of the nested decoder: H([row..., up(below)])."""

    def __init__(self, **two_conv) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.convolutions = TwoConv(**two_conv)

    def forward(self, row: list[torch.Tensor], below: torch.Tensor) -> torch.Tensor:
        inputs = list(row)
        inputs.append(self.upsample(below))
        return self.convolutions(torch.cat(inputs, dim=1))


class _ZeroPaddedShortcut(nn.Module):
    """ResNet's parameter-free shortcut "A": strided subsampling, with zeros for missing channels.

    MONAI's is a ``functools.partial``, which cannot be scripted and cuts the gradient (it uses ``.data``).
    """

    def __init__(self, *, planes: int, stride: int, spatial_dims: int) -> None:
        super().__init__()
        self.planes = planes
        self.spatial_dims = spatial_dims
        self.subsample = get_pool_layer(("avg", {"kernel_size": 1, "stride": stride}), spatial_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(self.subsample(x), [0, 0] * self.spatial_dims + [0, self.planes - x.size(1)])


def _build_encoder(backbone: str, in_channels: int, spatial_dims: int, norm: str | tuple) -> nn.Module:
    entry = FLEXUNET_BACKBONE.register_dict[backbone]
    own = {"in_channels": in_channels, "spatial_dims": spatial_dims, "pretrained": False, "norm": norm}
    encoder = entry["type"](**entry["parameter"] | {key: own[key] for key in own if key in entry["parameter"]})
    for module in encoder.modules():
        shortcut = getattr(module, "downsample", None)
        if shortcut is not None and not isinstance(shortcut, nn.Module):
            module.downsample = _ZeroPaddedShortcut(**shortcut.keywords)
    for name in _classifier_parts(encoder):
        delattr(encoder, name)
    _avoid_copies(encoder)
    return encoder


def _avoid_copies(encoder: nn.Module) -> None:
    """Let EfficientNet's convolutions pad by themselves, and its activations work out of place.

    Values are the same. An activation in place would have to copy its input for the backward pass.
    """
    for module in list(encoder.modules()):
        if isinstance(module, MemoryEfficientSwish):
            module.inplace = False
        for name, padder in list(module.named_children()):
            if not name.endswith("_padding") or not isinstance(padder, nn.ConstantPad2d | nn.ConstantPad3d):
                continue
            convolution = module.get_submodule(name.removesuffix("_padding"))
            before, after = padder.padding[::2], padder.padding[1::2]  # of the last axis first
            if before == after:
                convolution.padding = tuple(reversed(before))  # ty: ignore[invalid-assignment]
                setattr(module, name, nn.Identity())


def _classifier_parts(encoder: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in _CLASSIFIER_PARTS.items() if isinstance(encoder, kind)), ())


def _pad_to_multiple(x: torch.Tensor, divisor: int) -> torch.Tensor:
    pad: list[int] = []
    for axis in range(x.dim() - 1, 1, -1):
        pad += [0, (divisor - x.size(axis) % divisor) % divisor]
    return F.pad(x, pad, mode="replicate") if sum(pad) > 0 else x


def _crop(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    for axis, length in enumerate(size):
        x = x.narrow(axis + 2, 0, length)
    return x
