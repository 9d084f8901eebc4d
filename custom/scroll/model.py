"""What a bundle says about predicting a scroll: its network, windows and grey values."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
from torch import nn

from ..configuration import check_options
from ..errors import DataError
from ..handlers.load_weights import load_weights
from ..inferers import SlidingWindow
from ..inferers.common import ACTIVATIONS
from ..networks.ensemble import build_ensemble
from ..system.identity import sha256, weights_identity
from ..transforms import CheckValuesd

FOREGROUND = -1
"""The surface is the last of a network's channels, or its only one."""


@dataclass(frozen=True)
class Bundle:
    """A bundle's ``inference.json``, whole, so that a worker needs no file but the weights.

    Attributes:
        config: the merged configuration, as JSON text.
        checkpoint: the weights' files; of several, the mean probability is taken.
        sha256: of these files, with commas between.
        version: of the model, from ``metadata.json``.
    """

    config: str
    checkpoint: tuple[str, ...]
    sha256: str
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
        """Read the configurations of a bundle, later ones over earlier ones.

        Args:
            root: the bundle's folder.
            configs: names of files in ``configs``, without their ending.
            checkpoint: the weights, one file or several; by default what the configuration names.
            weights: whether there have to be any; without, all but the network is there.

        Raises:
            DataError: a file is missing, is no JSON, lacks an entry, or has one that is mistyped.
        """
        files = [Path(root, "configs", f"{name}.json") for name in configs]
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
        return cls(
            json.dumps(parser.get()),
            tuple(str(path.resolve()) for path in paths),
            ",".join(weights_identity(paths)),
            json.loads(metadata.read_text())["version"],
        )

    def entry(self, key: str) -> Any:
        """An entry of the configuration as it stands there."""
        return json.loads(self.config)[key]

    def definition(self, key: str) -> dict[str, Any]:
        """An entry of the configuration with all those that it refers to, by name."""
        config, found, left = json.loads(self.config), {}, [key]
        while left:
            name = left.pop()
            if name in config and name not in found:
                found[name] = config[name]
                left += re.findall(r"[@%](\w+)", json.dumps(config[name]))
        return dict(sorted(found.items()))

    def windows(self) -> SlidingWindow:
        """The bundle's windows, blended as probabilities of the surface, one channel.

        Raises:
            DataError: the configured inferer is no sliding window.
        """
        inferer = self._content("inferer")
        if isinstance(inferer, SlidingWindow):
            inferer.channels = inferer.channels or [FOREGROUND]
            if inferer.activation is ACTIVATIONS[None]:
                inferer.activation = ACTIVATIONS["softmax"]
            return inferer
        if not isinstance(inferer, SlidingWindowInferer):
            raise DataError.of("inferer", type(inferer).__name__, "a SlidingWindow")
        return SlidingWindow(
            roi_size=inferer.roi_size,
            overlap=inferer.overlap,
            sw_batch_size=inferer.sw_batch_size,
            activation="softmax",
            channels=[FOREGROUND],
        )

    def network(self) -> nn.Module:
        """The network with its weights, ready to predict, on the CPU.

        Raises:
            DataError: a file of weights is not what it was when the bundle was read, or, on another machine, there.
        """
        for path, expected in zip(self.checkpoint, self.sha256.split(","), strict=False):
            found = sha256(Path(path))[:12] if Path(path).is_file() else "that are not there"
            if found != expected[:12]:
                raise DataError.of(path, f"weights {found}", f"{expected[:12]}, with which the prediction began")
        applied = self.windows().activation
        activation = next(name for name, function in ACTIVATIONS.items() if function is applied)
        network = build_ensemble(self._content("network_def"), checkpoint=self.checkpoint, activation=activation)
        load_weights(self.checkpoint, network)
        return network.eval()

    def intensity(self) -> ScaleIntensityRanged:
        """How grey values become the network's input.

        Raises:
            DataError: something in the preprocessing is no function of single voxels, so that a part of a scroll could
                not be treated as the whole; or it is for other grey values than 0 to 255, which scrolls have.
        """
        preprocessing = self._content("preprocessing")
        transforms = preprocessing.flatten().transforms if isinstance(preprocessing, Compose) else [preprocessing]
        others = (LoadImaged, EnsureChannelFirstd, CheckValuesd)  # a scroll's type, uint8, is checked when it is opened
        rest = [transform for transform in transforms if not isinstance(transform, others)]
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
    """A network that takes windows as a scroll has them, and answers each as if it were alone.

    Grey values are normalised here, so that windows travel as uint8. A batch is always full: libraries choose other
    ways of computing for smaller ones, and these round differently.

    Args:
        network: the bundle's.
        intensity: of the bundle.
        inferer: whose batch size is filled up to.
    """

    def __init__(self, network: nn.Module, intensity: ScaleIntensityRanged, inferer: SlidingWindow) -> None:
        super().__init__()
        self.network = network
        self.scale = intensity.scaler
        self.inferer = inferer
        self.counts: list[int] = []
        """Windows in each call; threads may append at the same time."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Predict grey values ``(n, 1, D, H, W)`` float32."""
        count = len(windows)
        self.counts.append(count)
        missing = self.inferer.sw_batch_size - count
        if missing > 0:
            windows = torch.cat([windows, windows.new_zeros((missing, *windows.shape[1:]))])
        return self.network(self._normalised(windows))[:count]

    def _normalised(self, values: torch.Tensor) -> torch.Tensor:
        """As :class:`monai.transforms.ScaleIntensityRange`, without its metadata."""
        scale = self.scale
        values = (values - scale.a_min) / (scale.a_max - scale.a_min)
        if scale.b_min is not None and scale.b_max is not None:
            values = values * (scale.b_max - scale.b_min) + scale.b_min
        return values.clamp(scale.b_min, scale.b_max) if scale.clip else values


def _check_json(path: Path) -> None:
    if not path.is_file():
        raise DataError.of(path, "no such file", "a configuration of a bundle")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError.of(path, f"no JSON ({error})", "a configuration of a bundle") from None
