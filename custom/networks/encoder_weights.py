"""Initialisation of segmentation encoders with the weights of classifiers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.networks.nets import efficientnet
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import nn

from ..errors import DataError
from ..system.state_dict import misfit, read_state_dict

__all__ = ["imagenet_state_dict", "load_encoder_weights", "read_encoder_weights", "stem_for_channels"]

# MONAI numbers the blocks of EfficientNet by stage and block, published files by block only.
_STAGE = re.compile(r"^(_blocks)\.\d+(\.\d+\.)")


def read_encoder_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the encoder's state dict from a file saved by ``torch.save``.

    A dictionary under the key ``state_dict`` is used instead of the whole, the prefix ``module.`` of DataParallel is
    removed, and of a checkpoint of this package's network only the entries under ``encoder.`` are used, without prefix.

    Raises:
        DataError: see :func:`custom.system.state_dict.read_state_dict`.
    """
    state = read_state_dict(path, missing="a state dict of an encoder", below="state_dict")
    weights = {key.removeprefix("module."): value for key, value in state.items()}
    inside = {key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")}
    return inside or weights


def imagenet_state_dict(backbone: str, spatial_dims: int) -> dict[str, torch.Tensor]:
    """Return ImageNet weights with a three-channel stem, downloaded (and cached) by MONAI's loader.

    Raises:
        ValueError: MONAI has no ImageNet weights for this backbone.
    """
    entry = FLEXUNET_BACKBONE.register_dict[backbone]
    if backbone not in efficientnet.url_map or spatial_dims != 2:
        known = ", ".join(name for name in efficientnet.url_map if name.startswith("efficientnet-"))
        raise ValueError(
            f"no ImageNet weights for {backbone} in {spatial_dims}-D: MONAI has them for {known} in 2-D; "
            "encoder_weights also takes the path of a local file"
        )
    options = entry["parameter"] | {"pretrained": True, "in_channels": 3, "spatial_dims": 2}
    return entry["type"](**options).state_dict()


def load_encoder_weights(
    encoder: nn.Module, weights: Mapping[str, torch.Tensor], *, source: str | Path, ignored: Sequence[str] = ()
) -> None:
    """Load ``weights`` into ``encoder``, adapting the first convolution by :func:`stem_for_channels`.

    Keys are MONAI's or, for EfficientNet, those of the published files (``_blocks.7.`` for ``_blocks.3.7.``).

    Args:
        encoder: the network, modified in place.
        weights: its state dict, for any number of input channels.
        source: file or name of the weights, for the error message.
        ignored: child modules that only ``weights`` has, such as the classification head.

    Raises:
        DataError: a key is missing, unexpected, or of another shape; the encoder is unchanged.
    """
    own = encoder.state_dict()
    names = {_STAGE.sub(r"\1\2", name): name for name in own}
    found = {names.get(key, key): value for key, value in weights.items() if key.split(".")[0] not in ignored}
    stem = next(name for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d)) + ".weight"
    if stem in found and found[stem].ndim == own[stem].ndim:
        found[stem] = stem_for_channels(found[stem], own[stem].shape[1])
    # batch counters are not needed, and older files lack them
    for key in own:
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, own[key])

    if wrong := misfit(found, own):
        raise DataError.of(source, wrong, f"the weights of {type(encoder).__name__}")
    encoder.load_state_dict(found)


def stem_for_channels(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Adapt the weight ``(C_out, C_in, ...)`` of a first convolution to another number of input channels.

    An equal number is unchanged. Otherwise every channel gets the sum over the old ones, divided by the new number: the
    output for a grey image, repeated in all channels, is that for the same image as RGB.
    """
    if weight.shape[1] == in_channels:
        return weight
    return weight.sum(dim=1, keepdim=True).expand(-1, in_channels, *weight.shape[2:]) / in_channels
