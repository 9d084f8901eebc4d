"""Weights of an exported bundle."""

from pathlib import Path

import torch

from custom.errors import DataError
from custom.system.state_dict import read_state_dict

State = dict[str, torch.Tensor]


def read_weights(path: Path) -> State:
    """Read the weights that a run evaluated, averaged if it used EMA.

    Args:
        path: ``model.pt`` or ``model_final.pt``, which are flat and averaged, or ``checkpoints/step_*.pt``.

    Raises:
        DataError: the file is none of these.
    """
    objects = _checkpoint(path)
    if objects is None:
        return read_state_dict(path)
    prefix = "module."
    average = {
        key.removeprefix(prefix): value for key, value in objects.get("ema", {}).items() if key.startswith(prefix)
    }
    return average or objects["network"]


def write_weights(path: Path, state: State) -> None:
    """Write a flat state dict; equal weights under the same name give identical bytes."""
    torch.save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, path)


def check_fit(state: State, network: torch.nn.Module, path: Path, hint: str) -> None:
    """Check that weights match a network.

    Raises:
        DataError: they do not.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        found = f"weights of another network ({' '.join(lines[1:2])[:200]})"
        raise DataError.of(path, found, f"those of network_def, {type(network).__name__}{hint}") from None


def _checkpoint(path: Path) -> dict[str, State] | None:
    """Objects of a run's checkpoint; None if the file is something else, or unreadable."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # reading it as weights will report the error
        return None
    objects = content.get("objects") if isinstance(content, dict) else None
    return objects if isinstance(objects, dict) and "network" in objects else None
