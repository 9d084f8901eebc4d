"""Loading a network's weights before an engine runs."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..configuration import Configuration, differences, without_effect
from ..errors import DataError
from ..system.state_dict import read_state_dict
from .run_record import RECORD

SHARED = ("normalize", "window", "grey_values", "n_context", "context_mm", "regions")
"""Settings that must be those of the training, since they decide about the network's input and output."""
NETWORK = "network_def"
OF_TRAINING = {"_target_", "encoder_weights", "pretrained", "inplace", "deep_supervision"}
"""Arguments of a network that may differ after the training."""

logger = logging.getLogger(__name__)


@without_effect()
class LoadWeights:
    """Loads a flat state dict, such as ``models/model.pt``, into a network when the engine starts.

    Unlike MONAI's ``CheckpointLoader``, it reports a faulty file in one line. With a ``configuration``, it warns if
    that of the training, in ``run.json`` beside the file, presented the images otherwise, or if volumes of a validation
    were in the training.

    Example: ``{"_target_": "custom.handlers.LoadWeights", "path": "models/model.pt", "network": "@network"}``

    Args:
        path: the file, or a list: one, or one for each member of a :class:`custom.networks.Ensemble`.
        configuration: of this run.

    Raises:
        DataError: when the engine starts: a file is missing, damaged, or holds weights of another network; the list has
            another length than the ensemble.
    """

    def __init__(
        self, *, path: str | Sequence[str], network: torch.nn.Module, configuration: Configuration | None = None
    ) -> None:
        self.path = path
        self.network = network
        self.configuration = configuration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, engine: Engine) -> None:
        settings = {} if self.configuration is None else self.configuration.effective()
        load_weights(self.path, self.network, settings)
        if settings.get("subset") == "validation":
            data = getattr(engine.data_loader.dataset, "data", [])  # type: ignore[attr-defined]
            cases = {case["id"] for case in data if "id" in case}  # other lists of cases may have no ids
            for file in _files(self.path):
                warn_of_trained_cases(file, cases)


def load_weights(
    path: str | Path | Sequence[str], network: torch.nn.Module, settings: Mapping[str, Any] | None = None
) -> None:
    """Load ``path`` into ``network``; all keys must match. No code in the file is executed.

    Args:
        settings: those with effect, to be compared with the training's.
    """
    files = _files(path)
    members = [network] if len(files) == 1 else getattr(network, "members", [network])
    if len(files) != len(members):
        raise DataError.of("checkpoint", f"{len(files)} weights files", f"{len(members)}, one for each network")
    for file, member in zip(files, members, strict=True):
        _load_file(file, member)
        warn_of_different_settings(file, settings or {})


def warn_of_different_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Warn of weights whose training presented the images otherwise."""
    if text := different_settings(path, settings):
        logger.warning("%s: trained with other settings (%s): results may be wrong", path, text)


def warn_of_trained_cases(path: Path, cases: Collection[str]) -> None:
    """Warn of weights that were trained on cases which are to validate them."""
    training = _record(path).get("cases", {}).get("training", [])
    trained = [case["id"] for case in training if case.get("id") in cases]
    if trained:
        found = f"{len(trained)} of {len(cases)} cases, among them {trained[0]}"
        logger.warning("%s: trained on cases that are evaluated (%s): scores are too high", path, found)


def different_settings(path: Path, settings: Mapping[str, Any]) -> str:
    """Describe which :data:`SHARED` settings differ from those of the training, if these are known."""
    trained = _record(path).get("settings", {})
    keys = [key for key in trained if key in settings and key.split("#")[0] in SHARED]
    if any(key.startswith(NETWORK) for key in settings):  # an argument that is absent now has its default
        keys += [key for key in trained if key.startswith(NETWORK) and not OF_TRAINING & set(key.split("#"))]
    trained, settings = ({key: given[key] for key in keys if key in given} for given in (trained, settings))
    return differences(trained, settings)


def _record(path: Path) -> dict[str, Any]:
    """Read ``run.json`` beside the weights; empty if it is not there or not readable."""
    try:
        record = json.loads(path.with_name(RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _files(path: str | Path | Sequence[str]) -> list[Path]:
    return [Path(file) for file in ([path] if isinstance(path, str | Path) else path)]


def _load_file(path: Path, network: torch.nn.Module) -> None:
    state = read_state_dict(path)
    network = getattr(network, "module", network)  # the network inside DistributedDataParallel
    expected = network.state_dict()
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    wrong += [key for key in state if key not in expected]
    if wrong:
        raise DataError.of(
            path,
            f"weights of another network ({len(wrong)} of {len(expected)} tensors differ, the first is {wrong[0]!r})",
            f"those of the configured {type(network).__name__}",
        )
    network.load_state_dict(state)
