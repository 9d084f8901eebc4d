#!/usr/bin/env python3
"""Average the weights of several networks with the same architecture."""

from pathlib import Path

import torch

from scripts.command_line import command_line

from custom.errors import DataError
from custom.system.files import write_whole
from custom.system.state_dict import misfit, read_state_dict


def average_weights(*paths: str, output: str) -> None:
    """Write the mean of several weights files: one network, as fast as each of them ("model soup").

    This works for networks with a common initialisation (epochs of one run, or fine-tunings of one network). Networks
    trained from different initialisations, such as folds, cannot be averaged: predict with all of them instead, by a
    list for --checkpoint. Batch-norm statistics are averaged like weights, which is only approximately right. Wortsman
    et al., Model soups, ICML 2022, arXiv 2203.05482.

    Args:
        paths: two or more flat state dicts of one architecture, such as models/model.pt.
        output: the file to write.

    Example:
        python scripts/average_weights.py models/model.pt models/model_final.pt --output models/soup.pt
    """
    if len(paths) < 2:
        raise DataError.of("average_weights.py", f"{len(paths)} files of weights", "two or more")
    states = [read_state_dict(Path(str(path))) for path in paths]
    for path, state in zip(paths, states, strict=True):
        if wrong := misfit(state, states[0]):
            raise DataError.of(path, wrong, f"the network of {paths[0]}")
    mean = {key: _mean([state[key] for state in states]) for key in states[0]}
    write_whole(output, lambda file: torch.save(mean, file))
    print(f"Mean of {len(paths)} networks: {output}")


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    """Mean in float64, independent of the order; integers, such as batch counts, are those of the first file."""
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)


if __name__ == "__main__":
    command_line(average_weights, "average_weights.py")
