"""Weights of an exported bundle."""

from pathlib import Path

import torch

from custom.system.state_dict import read_state_dict


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights that a run evaluated, averaged if it used EMA.

    Args:
        path: ``model.pt`` or ``model_final.pt``, which are flat and averaged, or ``checkpoints/step_*.pt``.

    Raises:
        DataError: the file is none of these.
    """
    try:
        objects = torch.load(path, map_location="cpu", weights_only=True)["objects"]
        network, average = objects["network"], objects.get("ema", {})
    except Exception:  # no checkpoint of a run; reading it as weights will report what else is wrong
        return read_state_dict(path)
    prefix = "module."
    return {key.removeprefix(prefix): value for key, value in average.items() if key.startswith(prefix)} or network
