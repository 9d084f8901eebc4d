"""Choose the surface's post-processing on validation volumes by the official score."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.command_line import command_line

from custom.data.labels import as_labels
from custom.data.volumes import TIFF_SUFFIXES, read_volume
from custom.errors import DataError
from custom.metrics.pairs import volumes_in
from custom.metrics.vesuvius_score import PARTS, check_parts, score_volume
from custom.ops.target_layout import IGNORE_LABEL
from custom.system.files import write_json
from custom.transforms.postprocessing import PostprocessSurfaced

COMPONENT = "surface_postprocessing"
"""The entry of the bundle's configurations with the parameters."""

START = {
    "diffusion_steps": 0,
    "threshold_low": 0.5,
    "threshold_high": 0.0,
    "split_threshold": 0.0,
    "min_component_voxels": 0,
    "closing_radius": 0,
    "pinhole_iterations": 0,
    "tunnel_radius": 0,
    "max_hole_area": 0,
    "max_cavity_voxels": 0,
}

GRID = {
    "diffusion_steps": [0, 2, 4, 8, 16],
    "threshold_low": [0.2, 0.26, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6],
    "threshold_high": [0.0, 0.6, 0.7, 0.8, 0.85, 0.9],
    "split_threshold": [0.0, 0.7, 0.9],
    "min_component_voxels": [0, 100, 300, 1000, 3000, 10000, 20000],
    "closing_radius": [0, 1, 2, 3, 4],
    "pinhole_iterations": [0, 1, 3],
    "tunnel_radius": [0, 1, 2, 3],
    "max_hole_area": [0, 100, 400, 1600],
    "max_cavity_voxels": [0, 100, 1000],
}
"""Tried in this order, each with the best values of the others; a tie keeps the current value."""

Row = tuple[str, str, dict[str, float]]
"""Parameter, its new value, and the mean scores with it; or a volume left out, and what its scores are with."""


def tune(
    probabilities: str,
    labels: str,
    output: str = "postprocessing.json",
    rounds: int = 2,
    start: dict[str, float] | None = None,
    grid: dict[str, list[float]] | None = None,
    parts: Sequence[str] = PARTS,
    processes: int | None = None,
    leave_one_out: bool = False,
) -> None:
    """Optimise the post-processing's parameters one after the other, and write the best as an override file.

    The parameters are those of custom.transforms.PostprocessSurfaced. Every setting is scored on all volumes; the
    official score takes about a minute for 320^3, so a search over a few volumes takes hours. Use validation volumes,
    since the network is overconfident on training volumes.

    Example: python scripts/tune_postprocessing.py eval/probabilities data/train_labels --output postprocessing.json

    Args:
        probabilities: folder of <id>.tif (uint8, 0 to 255 for 0 to 1) or <id>.npy (the same, or floating-point 0 to 1).
        labels: folder with <id>.tif of 0 background, 1 surface, 2 ignored, for each of them.
        output: the JSON file to write, to be appended to --config_file.
        rounds: number of passes over all parameters; ends earlier if a pass changes nothing.
        start: initial parameters, for example "{threshold_low: 0.3}"; by default only a threshold of 0.5.
        grid: values to try, for example "{closing_radius: [0, 2, 3]}"; other parameters keep their initial value.
        parts: parts of the score to optimise, for example "[surface_dice, voi_score]" for a quick search without
            topology.
        processes: octants scored in parallel; by default as many as cores and free memory allow.
        leave_one_out: whether to print also what tuning gains on a volume that it has not seen: for each volume, the
            parameters are chosen on the others. Settings are scored once, but several times as many may be tried.
    """
    check_parts(parts)
    cases = _cases(Path(str(probabilities)), Path(str(labels)))
    best, grid = _known({**START, **(start or {})}), _known(GRID if grid is None else grid)
    scored: dict[tuple, dict[str, float]] = {}
    searches = 1 + (len(cases) if leave_one_out else 0)
    steps = 1 + rounds * sum(len(values) for values in grid.values())
    with tqdm(total=steps * len(cases) * searches, desc="tuning", unit="volume", disable=None) as progress:

        def score(case: tuple[Path, Path], knobs: Mapping[str, float]) -> dict[str, float]:
            key = (case, *knobs.items())
            if key not in scored:
                scored[key] = _score(case, knobs, parts, processes)
            progress.update()
            return scored[key]

        def search(chosen: Sequence[tuple[Path, Path]]) -> tuple[dict[str, Any], list[Row]]:
            return _search(best, grid, rounds, lambda knobs: _mean([score(case, knobs) for case in chosen]))

        left_out: list[Row] = []
        for case in cases if leave_one_out else []:
            knobs, _ = search([other for other in cases if other != case])
            left_out += [(case[0].stem, "start", score(case, best)), (case[0].stem, "tuned", score(case, knobs))]
        tuned, rows = search(cases)
    write_json(str(output), {f"{COMPONENT}#{knob}": value for knob, value in tuned.items()}, indent=4)
    tried = len({key[1:] for key in scored})
    print(_table("knob", "value", rows))
    print(f"{tried} settings on {len(cases)} volumes; each line keeps the lines above it")
    if left_out:
        means = [("mean", word, _mean([row[2] for row in left_out if row[1] == word])) for word in ("start", "tuned")]
        print(_table("left out", "", [*left_out, *means]))
    print(f"Post-processing: {output}")


def _search(
    best: dict[str, Any],
    grid: Mapping[str, Sequence[float]],
    rounds: int,
    score: Callable[[Mapping[str, float]], dict[str, float]],
) -> tuple[dict[str, Any], list[Row]]:
    """The best parameters, one after the other, and a row for the start and for each improvement."""
    rows = [("start", "", score(best))]
    for _ in range(rounds):
        before = dict(best)
        for knob, values in grid.items():
            for value in values:
                candidate = {**best, knob: value}
                if candidate != best and (scores := score(candidate))["score"] > rows[-1][2]["score"]:
                    best = candidate
                    rows.append((knob, f"{value:g}", scores))
        if best == before:
            break
    return best, rows


def _known(knobs: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(knobs) - set(START)
    if unknown:
        sys.exit(f"error: found the knobs {', '.join(sorted(unknown))}, expected some of {', '.join(START)}")
    return dict(knobs)


def _cases(probabilities: Path, labels: Path) -> list[tuple[Path, Path]]:
    for folder in (probabilities, labels):
        if not folder.is_dir():
            raise DataError.of(folder, "no such folder", "a folder of volumes")
    suffixes = (".npy", *TIFF_SUFFIXES)
    files = sorted(path for path in probabilities.iterdir() if path.suffix.lower() in suffixes)
    if not files:
        raise DataError.of(probabilities, "no probabilities", "at least one <id>.tif or <id>.npy")
    by_name = volumes_in(labels)
    for file in files:
        if file.stem not in by_name:
            raise DataError.of(labels / f"{file.stem}.tif", "no such file", f"the label of {file}")
    return [(file, by_name[file.stem]) for file in files]


def _score(
    case: tuple[Path, Path], knobs: Mapping[str, float], parts: Sequence[str], processes: int | None
) -> dict[str, float]:
    probability = _read_probability(case[0])
    label = as_labels(read_volume(case[1]).array, (0, 1, IGNORE_LABEL), case[1])
    if probability.shape != label.shape:
        raise DataError.of(case[0], f"shape {probability.shape}", f"{label.shape} as {case[1]}")
    mask = PostprocessSurfaced("pred", **knobs)({"pred": probability[None]})["pred"][0]
    scores = score_volume(mask, label, parts=parts, processes=processes)
    return {key: scores[key] for key in ("score", *parts)}


def _read_probability(path: str | os.PathLike) -> np.ndarray:
    path = Path(path)
    if path.suffix.lower() != ".npy":
        array = read_volume(path).array
    else:
        try:
            array = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError.of(path, f"an unreadable file ({error})", "a NumPy array") from None
        array = array[-1] if array.ndim == 4 else array  # the surface's channel is the last
    if array.dtype == np.uint8 or (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1):
        return array
    found = f"{array.dtype} values from {array.min()} to {array.max()}"
    raise DataError.of(path, found, "uint8, or floating-point from 0 to 1")


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}


def _table(name: str, value: str, rows: Sequence[Row]) -> str:
    keys = list(rows[0][2])
    lines = [f"{name:<22}{value:>8}" + "".join(f"{key:>14}" for key in keys)]
    for first, second, scores in rows:
        lines.append(f"{first:<22}{second:>8}" + "".join(f"{scores[key]:>14.4f}" for key in keys))
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(tune, "tune_postprocessing.py")
