"""Reads the folders of runs."""

import csv
import json
import os
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom.handlers.history import NOT_METRICS, TABLE
from custom.handlers.run_record import RECORD
from custom.metrics.case_metric import CASES_CSV


@dataclass(frozen=True)
class Run:
    """A training or an evaluation: its ``output_dir`` and contents."""

    name: str
    folder: Path
    record: dict[str, Any]
    """``run.json``; empty for an evaluation."""
    history: list[dict[str, float]]
    """``metrics.csv``, one row per epoch, without values that are not numbers."""
    cases: dict[str, dict[str, float]]
    """``cases.csv``: the defined scores of each volume."""
    panels: dict[str, Path]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that can change results, by id; for runs of version 0.1.0, all top-level entries."""
        knobs = {key: value for key, value in self.configuration.items() if not isinstance(value, dict)}
        return self.record.get("settings", knobs)

    @property
    def configuration(self) -> dict[str, Any]:
        return self.record.get("configuration", {})

    @property
    def key_metric(self) -> str | None:
        """Name of the score that selected the best weights."""
        return next(iter(self.configuration.get("validate", {}).get("key_metric", {})), None)

    def best_row(self) -> dict[str, float] | None:
        """The first epoch with the best validation score; None if there was none."""
        rows = [row for row in self.history if self.key_metric in row]
        return max(rows, key=lambda row: row[self.key_metric]) if rows else None

    def scores(self) -> dict[str, list[float]]:
        """The values of each score, over the volumes for which it is defined."""
        names = dict.fromkeys(name for case in self.cases.values() for name in case)
        return {name: [case[name] for case in self.cases.values() if name in case] for name in names}

    def measured(self, name: str) -> list[float]:
        """Return a column of the history, without gaps."""
        return [row[name] for row in self.history if name in row]


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read runs, named by the parts in which their paths differ; a single one by its last two folders.

    Raises:
        FileNotFoundError: a folder was not written by a run.
    """
    paths = [os.path.abspath(str(folder)) for folder in folders]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [Path(path).relative_to(shared).parts for path in paths]
    if len(paths) == 1:
        return [_load_run(Path(paths[0]), "/".join(Path(paths[0]).parts[-2:]))]
    while min(map(len, names)) > 1 and len({name[-1] for name in names}) == 1:
        names = [name[:-1] for name in names]
    return [_load_run(Path(path), "/".join(name)) for path, name in zip(paths, names, strict=True)]


def _load_run(folder: Path, name: str) -> Run:
    if not any((folder / file).exists() for file in (TABLE, CASES_CSV)):
        raise FileNotFoundError(f"{folder}: found neither {TABLE} nor {CASES_CSV}, expected the folder of a run")
    record = folder / RECORD
    return Run(
        name,
        folder,
        json.loads(record.read_text(encoding="utf-8")) if record.exists() else {},
        [_numbers(row) for row in read_csv(folder / TABLE)],
        {row.pop("case"): _numbers(row) for row in read_csv(folder / CASES_CSV)},
        {panel.stem: panel for panel in sorted((folder / "panels").glob("*.png"))},
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """Without names and undefined scores."""
    found = {}
    for name, text in row.items():
        with suppress(ValueError):
            found[name] = float(text)
    return found


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """Return groups of runs that have scores in common (those of one bundle), in the given order."""
    groups: list[tuple[set[str], list[Run]]] = []
    for run in runs:
        names = {*run.scores(), *(name for row in run.history for name in row)} - NOT_METRICS
        shared = [group for group in groups if group[0] & names]
        groups = [group for group in groups if group not in shared]
        merged = [member for _, members in shared for member in members]
        groups.append((names.union(*(found for found, _ in shared)), [*merged, run]))
    return [members for _, members in groups]


def differing(columns: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the entries that differ between dictionaries, with the value in each, or None."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key) for column in columns] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation (of the sample; 0 for one value), lowest and highest."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation, "lowest": min(values), "highest": max(values)}


def duration(seconds: float) -> str:
    """Format as ``45 s``, ``12 min`` or ``6.1 h``."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
