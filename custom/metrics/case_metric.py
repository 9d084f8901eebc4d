"""Base class of metrics with a row of scores for each volume."""

import csv
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric

from ..data.volumes import stem
from ..system.distributed import gather, rank
from ..system.files import write_whole

CASES_CSV = "cases.csv"

Cases = Mapping[str, Mapping[str, float]]
"""Scores by case id, NaN if undefined."""


class CaseMetric(CumulativeIterationMetric):
    """Base of metrics over whole volumes, for :class:`custom.handlers.CaseMetrics` or any loop over volumes.

    Called with predictions and labels, batches ``(B, 1, D, H, W)`` or lists of ``(1, D, H, W)`` (one slice: ``(1, H,
    W)``). The id of a case is taken from the MetaTensor of the label (or prediction), or else from its file name. Works
    in distributed evaluation; a case that several ranks evaluate counts once.

    A subclass defines ``columns`` and implements :meth:`measure`; it may override :meth:`means` and
    :meth:`write_cases`.

    Raises:
        ValueError: a rank has evaluated two volumes with the same id.
    """

    columns: tuple[str, ...] = ()

    @abstractmethod
    def measure(self, prediction: torch.Tensor, label: torch.Tensor, name: str) -> Mapping[str, float]:
        """Return the ``columns`` for one volume, ``(1, D, H, W)`` each; NaN for an undefined score."""

    def reset(self) -> None:
        super().reset()
        self._rows: dict[str, list[float]] = {}

    def name_of(self, prediction: torch.Tensor, label: torch.Tensor, index: int) -> str:
        """Return the id of a case, by default ``case-<index>``."""
        described = next((t for t in (label, prediction) if isinstance(t, MetaTensor)), None)
        meta = {} if described is None else described.meta
        return meta.get("id") or stem(meta.get("filename_or_obj", "")) or f"case-{index}"

    def add(self, name: str, values: Mapping[str, float]) -> list[float]:
        """Add the scores of a case, as from :meth:`measure`, and return them in the order of the columns."""
        # Ranks may share a volume, but within this rank a repeated id means that ids are not unique.
        if name in self._rows:
            raise ValueError(f"two volumes have the id {name!r}")
        self._rows[name] = [float(values[column]) for column in self.columns]
        return self._rows[name]

    def cases(self) -> dict[str, dict[str, float]]:
        """Return the columns by case id, over all ranks, in the order of the dataset. Every rank must call it.

        Of several ranks, each has every n-th case (:func:`custom.system.distributed.shared_indices`).
        """
        ranks = gather(list(self._rows.items()))
        in_turn = [found for round in itertools.zip_longest(*ranks) for found in round if found is not None]
        cases: dict[str, dict[str, float]] = {}
        for name, row in in_turn:
            cases.setdefault(name, dict(zip(self.columns, row, strict=True)))
        return cases

    def means(self) -> dict[str, float]:
        """Return each column's mean over the cases in which it is defined, without columns that are never defined."""
        cases = self.cases().values()
        values = {name: [case[name] for case in cases if not math.isnan(case[name])] for name in self.columns}
        return {name: sum(found) / len(found) for name, found in values.items() if found}

    def write(self, folder: str | Path) -> None:
        cases = self.cases()
        if rank() == 0:
            self.write_cases(cases, Path(folder))

    def write_cases(self, cases: Cases, folder: Path) -> None:
        write_whole(folder / CASES_CSV, lambda file: write_csv(cases, self.columns, file))

    def _compute_list(self, y_pred: Any, y: Any = None, **_: Any) -> torch.Tensor:
        return torch.stack([self._row(prediction, label) for prediction, label in zip(y_pred, y, strict=True)])

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        return self._compute_list(list(y_pred), list(y))

    def _row(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        name = self.name_of(prediction, label, len(self._rows))
        return torch.tensor(self.add(name, self.measure(prediction, label, name)), dtype=torch.float64)


def write_csv(cases: Cases, columns: tuple[str, ...], file: Path) -> None:
    """Write one row per case; undefined values are left empty."""
    show: Callable[[float], str] = lambda value: "" if math.isnan(value) else f"{value:.6g}"  # noqa: E731
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", *columns])
        writer.writerows([case, *(show(values[name]) for name in columns)] for case, values in cases.items())
