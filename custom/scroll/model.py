"""Network, windows and preprocessing of a bundle, for predicting scrolls."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
from torch import nn

from ..configuration import check_options, settings_with_effect
from ..errors import DataError
from ..handlers.load_weights import load_weights, warn_of_different_settings
from ..inferers import NnunetInferer, SlidingWindow
from ..inferers.common import ACTIVATIONS
from ..networks.ensemble import build_ensemble
from ..system.identity import sha256, weights_identity
from ..transforms import CheckValuesd, NormalizeNnunetd

FOREGROUND = -1
"""The surface is a network's last channel, or its only one."""


@dataclass(frozen=True)
class Bundle:
    """A bundle's complete ``inference.json``, so that workers need no file except the weights.

    The probabilities of several networks are averaged.
    """

    config: str
    """The merged configuration, as JSON text."""
    checkpoint: tuple[str, ...]
    sha256: str
    """Of the weights files, separated by commas."""
    version: str

    @classmethod
    def read(
        cls,
        root: str,
        *,
        configs: Sequence[str] = ("inference",),
        checkpoint: str | Sequence[str] | None = None,
        weights: bool = True,
    ) -> "Bundle":
        """Read the configurations of a bundle; later ones override earlier ones.

        Args:
            root: the bundle's folder.
            configs: names of files in ``configs``, without suffix, or paths of others, with it.
            checkpoint: one or several weights files; by default those of the configuration.
            weights: whether weights are required; without them, everything but :meth:`network` works.

        Raises:
            DataError: a file is missing or not valid JSON, or an entry is missing or misspelt.
        """
        files = [Path(name) if name.endswith(".json") else Path(root, "configs", f"{name}.json") for name in configs]
        metadata = Path(root, "configs", "metadata.json")
        for file in [*files, metadata]:
            _check_json(file)
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        parser["bundle_root"] = str(root)
        check_options(parser, strict=False)
        for key in ("network_def", "inferer", "preprocessing", "checkpoint"):
            if key not in parser.get():
                raise DataError.of(files[0], f"no entry {key!r}", "the inference configuration of a bundle")
        checkpoint = checkpoint or parser.get_parsed_content("checkpoint")
        listed = [checkpoint] if isinstance(checkpoint, str) else checkpoint
        paths = [Path(path) for path in listed] if weights else []
        for path in paths:
            if not path.is_file():
                raise DataError.of(path, "no such file", "trained weights (train first, or give --checkpoint)")
            warn_of_different_settings(path, settings_with_effect(parser))
        return cls(
            json.dumps(parser.get()),
            tuple(str(path.resolve()) for path in paths),
            ",".join(weights_identity(paths)),
            json.loads(metadata.read_text())["version"],
        )

    def definition(self, key: str) -> dict[str, Any]:
        """Return an entry of the configuration with all entries that it refers to, by name."""
        config, found, left = json.loads(self.config), {}, [key]
        while left:
            name = left.pop()
            if name in config and name not in found:
                found[name] = config[name]
                left += re.findall(r"[@%](\w+)", json.dumps(config[name]))
        return dict(sorted(found.items()))

    def windows(self) -> SlidingWindow:
        """Return the bundle's sliding window, which blends the probability of the surface, one channel.

        Raises:
            DataError: the configured inferer is not a sliding window.
        """
        inferer = self._content("inferer")
        if isinstance(inferer, NnunetInferer) and (set(inferer.spacing) != {1.0} or inferer.transpose != (0, 1, 2)):
            found = f"spacing {inferer.spacing} and transpose {inferer.transpose}"
            raise DataError.of("inferer", found, "a 3-D network that takes voxels as they are")
        if not isinstance(inferer, SlidingWindow):
            raise DataError.of("inferer", type(inferer).__name__, "a SlidingWindow")
        inferer.channels = inferer.channels or [FOREGROUND]
        if inferer.activation is ACTIVATIONS[None]:
            inferer.activation = ACTIVATIONS["softmax"]
        return inferer

    def network(self) -> nn.Module:
        """Return the network with its weights, in evaluation mode, on the CPU.

        Raises:
            DataError: a weights file has changed since the bundle was read, or is missing on this machine.
        """
        for path, expected in zip(self.checkpoint, self.sha256.split(","), strict=False):
            found = sha256(Path(path))[:12] if Path(path).is_file() else "that are not there"
            if found != expected[:12]:
                raise DataError.of(path, f"weights {found}", f"{expected[:12]}, with which the prediction began")
        windows = self.windows()
        applied = ACTIVATIONS[None] if windows.like_nnunet else windows.activation
        activation = next(name for name, function in ACTIVATIONS.items() if function is applied)
        network = build_ensemble(self._content("network_def"), checkpoint=self.checkpoint, activation=activation)
        load_weights(self.checkpoint, network)
        return network.eval()

    def intensity(self) -> ScaleIntensityRanged:
        """Return the scaling of grey values to the network's input.

        Raises:
            DataError: the preprocessing has other transforms, which might not be applicable to parts of a scroll, or
                expects another range of grey values than the uint8 of scrolls.
        """
        preprocessing = self._content("preprocessing")
        transforms = preprocessing.flatten().transforms if isinstance(preprocessing, Compose) else [preprocessing]
        others = (LoadImaged, EnsureChannelFirstd, CheckValuesd)  # a scroll's type, uint8, is checked when it is opened
        rest = [transform for transform in transforms if not isinstance(transform, others)]
        rest = [each.intensity() if isinstance(each, NormalizeNnunetd) else each for each in rest]
        if len(rest) != 1 or not isinstance(rest[0], ScaleIntensityRanged):
            names = [type(transform).__name__ for transform in rest]
            raise DataError.of("preprocessing", f"{names} after loading", "ScaleIntensityRanged alone")
        ranges = [
            tuple(check.grey_values) for check in transforms if isinstance(check, CheckValuesd) and check.grey_values
        ]
        scaler = rest[0].scaler
        if any(low > 0 or high < 255 for low, high in ranges) or scaler.a_min < 0 or scaler.a_max > 255:
            found = ranges or [(scaler.a_min, scaler.a_max)]
            text = " and ".join(f"{low:g} to {high:g}" for low, high in found)
            raise DataError.of("preprocessing", f"grey values from {text}", "0 to 255, the uint8 of a scroll")
        return rest[0]

    def _content(self, key: str) -> Any:
        return ConfigParser(json.loads(self.config)).get_parsed_content(key)


class ScrollNetwork(nn.Module):
    """A network whose output for a window does not depend on the batch.

    Batches are padded to full size, since libraries choose other algorithms, with other rounding, for smaller ones.
    """

    def __init__(self, network: nn.Module, inferer: SlidingWindow) -> None:
        super().__init__()
        self.network = network
        self.inferer = inferer
        self.counts: list[int] = []
        """Windows in each call; several threads may append."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Predict scaled grey values ``(n, 1, D, H, W)`` float32."""
        count = len(windows)
        self.counts.append(count)
        missing = self.inferer.sw_batch_size - count
        if missing > 0:
            windows = torch.cat([windows, windows.new_zeros((missing, *windows.shape[1:]))])
        return self.network(windows)[:count]


@dataclass(frozen=True)
class ScaledWindows:
    """Scales the grey values of windows ``(n, 1, D, H, W)`` float32, which are transferred to a GPU as uint8.

    Equivalent of :class:`monai.transforms.ScaleIntensityRange`, without metadata.
    """

    intensity: ScaleIntensityRanged
    cleared: Sequence[tuple[int, int]] = ()
    """Voxels at the start and at the end of each axis that are 0 after scaling: the padding of nnU-Net's models."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        scale = self.intensity.scaler
        values = (windows - scale.a_min) / (scale.a_max - scale.a_min)
        if scale.b_min is not None and scale.b_max is not None:
            values = values * (scale.b_max - scale.b_min) + scale.b_min
        values = values.clamp(scale.b_min, scale.b_max) if scale.clip else values
        for axis, (before, behind) in enumerate(self.cleared, start=2):
            values.narrow(axis, 0, before).zero_()
            values.narrow(axis, values.shape[axis] - behind, behind).zero_()
        return values


def _check_json(path: Path) -> None:
    if not path.is_file():
        raise DataError.of(path, "no such file", "a configuration of a bundle")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError.of(path, f"no JSON ({error})", "a configuration of a bundle") from None
