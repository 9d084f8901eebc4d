"""The official Vesuvius score of two folders of volumes."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import as_labels, whole_numbers
from ..data.volumes import read_shape, read_volume
from ..errors import DataError
from ..ops.target_layout import IGNORE_LABEL
from .pairs import pair_files
from .vesuvius_score import PARTS, check_parts, score_volume


def score_folders(
    predictions: str, labels: str, *, processes: int | None = None, parts: Sequence[str] = PARTS
) -> tuple[dict[str, Any], str]:
    """Score every prediction of a folder against the label of the same name.

    Args:
        labels: folder of volumes ``<id>.tif``. A ``train.csv`` or ``test.csv`` (``id,scroll_id``) in it or its parent
            folder adds means per scroll to the table.

    Returns:
        ``{"cases": {id: {"score", "toposcore", "surface_dice", "voi_score"}}, "mean": {...}}``, and a text table.

    Raises:
        DataError: a folder or file is missing, a shape differs, a label has other values than 0, 1 and 2, a prediction
            has fractions. Headers are checked before scoring starts.
        BettiUnavailableError: "toposcore" without the compiled Betti matching.
    """
    from tqdm import tqdm

    check_parts(parts)
    pairs = _checked_pairs(predictions, labels)
    keys = ["score", *(part for part in PARTS if part in parts)]
    cases = {}
    with tqdm(total=8 * len(pairs), desc="scoring", unit="octant", disable=None) as progress:
        for number, (case, (prediction, label)) in enumerate(pairs.items(), 1):
            progress.set_postfix_str(case)
            scores = score_volume(
                *_read_pair(prediction, label), parts=parts, processes=processes, done=progress.update
            )
            cases[case] = {key: scores[key] for key in keys}
            progress.update(8 * number - progress.n)
    scores = {"cases": cases, "mean": _mean(cases.values(), keys)}
    return scores, _table(scores, keys, _scrolls(Path(labels)))


def _checked_pairs(predictions: str, labels: str) -> dict[str, tuple[Path, Path]]:
    """Prediction and label of each id; shapes are compared by headers, before hours of computation."""
    pairs = pair_files(predictions, labels)
    for prediction, label in pairs.values():
        headers = read_shape(prediction), read_shape(label)
        if None not in headers:
            _check_same_shape(prediction, headers[0][0], label, headers[1][0])
    return pairs


def _check_same_shape(prediction: Path, predicted: tuple[int, ...], label: Path, present: tuple[int, ...]) -> None:
    if predicted != present:
        raise DataError.of(prediction, f"shape {predicted}", f"{present} as {label}")


def _read_pair(prediction: Path, label: Path) -> tuple[np.ndarray, np.ndarray]:
    predicted, present = read_volume(prediction).array, read_volume(label).array
    _check_same_shape(prediction, predicted.shape, label, present.shape)
    predicted = whole_numbers(predicted, prediction)
    if len(values := np.unique(predicted[predicted != 0])) > 2:  # a label has two, surface and ignored
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise DataError.of(prediction, f"{len(values)} values apart from 0 ({shown} ...)", "a mask, no probabilities")
    return predicted, as_labels(present, (0, 1, IGNORE_LABEL), label)


def _scrolls(labels: Path) -> dict[str, str]:
    for table in (folder / name for folder in (labels, labels.parent) for name in ("train.csv", "test.csv")):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                return {row.get("id", ""): row.get("scroll_id", "") for row in csv.DictReader(file)}
    return {}


def _mean(cases: Iterable[Mapping[str, float]], keys: Sequence[str]) -> dict[str, float]:
    return {key: float(np.mean([case[key] for case in cases])) for key in keys}


def _table(scores: Mapping[str, Any], keys: Sequence[str], scrolls: Mapping[str, str]) -> str:
    cases = scores["cases"]
    by_scroll: dict[str, list[str]] = {}
    for case in cases:
        by_scroll.setdefault(scrolls.get(case, ""), []).append(case)
    rows = [("volume", "scroll", keys)]
    rows += [(case, scrolls.get(case, ""), [f"{values[key]:.4f}" for key in keys]) for case, values in cases.items()]
    for scroll, members in sorted(by_scroll.items()):
        if scroll:
            mean = _mean([cases[case] for case in members], keys)
            rows.append((f"mean of {len(members)}", scroll, [f"{mean[key]:.4f}" for key in keys]))
    rows.append((f"mean of {len(cases)}", "all", [f"{scores['mean'][key]:.4f}" for key in keys]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"{name:<{widths[0]}}  {scroll:<{widths[1]}}  " + "  ".join(f"{value:>12}" for value in values)
        for name, scroll, values in rows
    )
