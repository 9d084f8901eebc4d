"""Summary of the liver scores of many volumes: as numbers, text table, files and histogram."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..system.files import write_whole
from .case_metric import CASES_CSV, Cases, write_csv
from .liver_case import COLUMNS, LESIONS, REGIONS, SCORES, VOXELS

SCORES_JSON = "scores.json"
HISTOGRAM = "dice_histogram.png"

COLOURS = {"liver": "#f4a261", "tumor": "#e63946"}


def summarise(cases: Cases) -> dict[str, Any]:
    """Return the scores of each case and their means, as in the JSON file; undefined values are None.

    Returns:
        ``cases``: id to ``{"liver": {"dice", "voe", "rvd", "assd", "hd95"}, "tumor": {the same}, "lesions": {"tp",
            "fp",
        "fn"}}``. ``mean``: the same, with means over the cases in which a value is defined, whose number is in
        ``defined``; ``lesions`` also has precision, recall and F1 over all lesions. ``tumor_burden_rmse`` is the root
        mean square error of the tumour burden. ``global``: ``liver_dice`` and ``tumor_dice`` over all voxels together.
    """
    columns = {name: [case[name] for case in cases.values()] for name in COLUMNS}
    means = {name: _mean(values) for name, values in columns.items()}
    lesions = {name: sum(columns[f"lesion_{name}"]) for name in LESIONS}
    square = _mean(value**2 for value in columns["tumor_burden_error"])
    mean = _nested(means) | {
        "tumor_burden_rmse": None if square is None else math.sqrt(square),
        "defined": {
            region: {score: len(_defined(columns[f"{region}_{score}"])) for score in SCORES} for region in REGIONS
        },
    }
    mean["lesions"] |= detection(**lesions)
    return {
        "cases": {case: _nested(values, counts=int) for case, values in cases.items()},
        "mean": mean,
        "global": {f"{region}_dice": _global_dice(columns, region) for region in REGIONS},
    }


def detection(tp: float, fp: float, fn: float) -> dict[str, float | None]:
    """Return precision, recall and F1 of lesions; None if the denominator is 0."""
    return {
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def format_table(cases: Cases) -> str:
    """Return the scores of each case and their means as a text table; ``-`` means undefined."""
    scores = summarise(cases)
    groups = ["", *(name for region in REGIONS for name in (region, *[""] * (len(SCORES) - 1))), "lesions", "", ""]
    head = ["case", *SCORES * len(REGIONS), *LESIONS]
    rows = [[case, *_cells(values)] for case, values in scores["cases"].items()]
    mean = scores["mean"]
    counts = [str(mean["defined"][region][score]) for region in REGIONS for score in SCORES]
    total = [str(sum(case["lesions"][name] for case in scores["cases"].values())) for name in LESIONS]
    rows += [["mean", *_cells(mean)[: len(counts)], *total], ["over cases", *counts, *[str(len(cases))] * len(LESIONS)]]
    lines = _aligned([groups, head, *rows])
    lines.insert(-2, "-" * len(lines[0]))
    found = ", ".join(f"{name} {_number(mean['lesions'][name])}" for name in ("precision", "recall", "f1"))
    lines += [
        "mean: over the cases in which a score is defined; assd and hd95 in mm; tp, fp, fn: lesions, in all",
        f"all lesions: {found}; tumor burden: RMSE {_number(mean['tumor_burden_rmse'])}",
        "all voxels: " + ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in scores["global"].items()),
    ]
    return "\n".join(lines)


def write_reports(cases: Cases, folder: str | Path) -> None:
    """Write ``cases.csv`` (one row per case), ``scores.json`` (:func:`summarise`) and ``dice_histogram.png``."""
    folder = Path(folder)
    hidden = {f"{region}_{name}" for region in REGIONS for name in VOXELS}
    columns = tuple(name for name in COLUMNS if name not in hidden)
    write_whole(folder / CASES_CSV, lambda file: write_csv(cases, columns, file))
    text = json.dumps(summarise(cases), indent=2, allow_nan=False) + "\n"
    write_whole(folder / SCORES_JSON, lambda file: file.write_text(text, encoding="utf-8"))
    draw_histogram(cases, folder / HISTOGRAM)


def draw_histogram(cases: Cases, path: str | Path) -> None:
    """Plot histograms of the Dice of liver and tumour over the cases."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, (region, colour) in zip(figure.subplots(1, 2), COLOURS.items(), strict=True):
        values = _defined(case[f"{region}_dice"] for case in cases.values())
        axis.hist(values, bins=np.linspace(0, 1, 21), color=colour, edgecolor="white")
        title = f"{region}, {len(values)} of {len(cases)} volumes"
        if values:
            mean = float(np.mean(values))
            axis.axvline(mean, color="black", linestyle="--", linewidth=1)
            title += f", mean {mean:.3f}"
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="Dice per volume", ylabel="volumes", xlim=(0, 1))
        axis.yaxis.get_major_locator().set_params(integer=True)
    write_whole(path, lambda file: figure.savefig(file, dpi=110))


def _nested(values: Mapping[str, float | None], counts: type = float) -> dict[str, Any]:
    def of(name: str) -> float | None:
        value = values[name]
        return None if value is None or math.isnan(value) else value

    regions = {region: {score: of(f"{region}_{score}") for score in SCORES} for region in REGIONS}
    lesions = {name: of(f"lesion_{name}") for name in LESIONS}
    return regions | {"lesions": {name: None if n is None else counts(n) for name, n in lesions.items()}}


def _cells(scores: Mapping[str, Any]) -> list[str]:
    cells = [_number(scores[region][score]) for region in REGIONS for score in SCORES]
    return cells + [str(scores["lesions"][name]) for name in LESIONS]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _defined(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Iterable[float]) -> float | None:
    defined = _defined(values)
    return sum(defined) / len(defined) if defined else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _global_dice(columns: Mapping[str, list[float]], region: str) -> float | None:
    overlap, predicted, labelled = (sum(columns[f"{region}_{name}"]) for name in ("overlap", "predicted", "labelled"))
    return _ratio(2 * overlap, predicted + labelled)
