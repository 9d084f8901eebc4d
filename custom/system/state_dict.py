"""Reading and comparing state dicts."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import DataError


def read_state_dict(
    path: str | Path,
    *,
    missing: str = "trained weights (train first, or give --checkpoint)",
    below: str | None = None,
) -> dict[str, torch.Tensor]:
    """Read a flat state dict, as written by ``torch.save``, onto the CPU; no code in the file is executed.

    Args:
        missing: what the error says is expected if the file does not exist.
        below: optional key under which the file may have the state dict.

    Raises:
        DataError: the file is missing, damaged, or contains other things than tensors.
    """
    if not Path(path).is_file():
        raise DataError.of(path, "no such file", missing)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various types for unsuitable files
        raise DataError.of(path, f"an unreadable file ({type(error).__name__})", "a state dict of tensors") from error
    if below is not None and isinstance(state, Mapping):
        state = state.get(below, state)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError.of(path, "other things than tensors", "a state dict of tensors, flat")
    return dict(state)


def misfit(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """Describe how names and shapes of a state dict differ from a network's; None if they do not."""
    kinds = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [key for key in expected if key in state and state[key].shape != expected[key].shape],
    }
    found = [
        f"{len(keys)} {kind} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in kinds.items()
        if keys
    ]
    return ", ".join(found) or None
