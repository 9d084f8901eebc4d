"""Loading a network's weights before an engine runs."""

from collections.abc import Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..errors import DataError
from ..system.state_dict import read_state_dict


@without_effect()
class LoadWeights:
    """Loads a flat state dict, such as ``models/model.pt``, into a network when the engine starts.

    Unlike MONAI's ``CheckpointLoader``, it reports a faulty file in one line.

    Example: ``{"_target_": "custom.handlers.LoadWeights", "path": "models/model.pt", "network": "@network"}``

    Args:
        path: the file, or a list: one, or one for each member of a :class:`custom.networks.Ensemble`.

    Raises:
        DataError: when the engine starts: a file is missing, damaged, or holds weights of another network; the list has
            another length than the ensemble.
    """

    def __init__(self, *, path: str | Sequence[str], network: torch.nn.Module) -> None:
        self.path = path
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: load_weights(self.path, self.network))


def load_weights(path: str | Path | Sequence[str], network: torch.nn.Module) -> None:
    """Load ``path`` into ``network``; all keys must match. No code in the file is executed."""
    files = [path] if isinstance(path, str | Path) else path
    members = [network] if len(files) == 1 else getattr(network, "members", [network])
    if len(files) != len(members):
        raise DataError.of("checkpoint", f"{len(files)} weights files", f"{len(members)}, one for each network")
    for file, member in zip(files, members, strict=True):
        _load_file(Path(file), member)


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
