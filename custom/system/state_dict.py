"""State dicts in files."""

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
    """Read a flat state dict, as ``torch.save`` writes it, onto the CPU; nothing in the file is executed.

    Args:
        path: the file.
        missing: what to say is expected, where there is no file.
        below: a key under which the state dict may be, beside other things.

    Raises:
        DataError: the file is missing, damaged, or holds other things than tensors.
    """
    if not Path(path).is_file():
        raise DataError.of(path, "no such file", missing)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file and for one that holds more than tensors
        raise DataError.of(path, f"an unreadable file ({type(error).__name__})", "a state dict of tensors") from error
    if below is not None and isinstance(state, Mapping):
        state = state.get(below, state)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError.of(path, "other things than tensors", "a state dict of tensors, flat")
    return dict(state)


def misfit(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """How the names and shapes of a state dict differ from those of a network's, in words; None if they do not."""
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
