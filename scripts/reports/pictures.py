"""Curves of several runs in one picture."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from custom.handlers.history import metric_names

from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#444444")
"""Suitable for colour-blind readers (Okabe and Ito)."""
RESOURCES = {
    "seconds_per_step": "seconds a step",
    "data_wait": "share waiting for data",
    "memory_gib": "main memory, GiB",
    "gpu_memory_gib": "GPU memory, GiB",
}
COLUMNS = 3


def colour(number: int) -> str:
    """Return the colour of the run with this number."""
    return COLOURS[number % len(COLOURS)]


def learning_curves(runs: Sequence[Run]) -> bytes | None:
    """Plot loss, learning rate, scores, time and memory by step; returns a PNG, or None without a history."""
    scores = list(dict.fromkeys(name for run in runs for name in metric_names(run.history)))
    titles = {"train_loss": "training loss", "learning_rate": "learning rate", **{name: name for name in scores}}
    titles = {name: title for name, title in (titles | RESOURCES).items() if any(run.measured(name) for run in runs)}
    if not titles:
        return None
    from matplotlib.figure import Figure

    rows = -(-len(titles) // COLUMNS)
    figure = Figure(figsize=(3.9 * COLUMNS, 2.75 * rows), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        for number, run in enumerate(runs):
            _draw(axis, run, name, number)
        axis.set_title(title.replace("_", " "), fontsize="medium")
        if name in scores:
            axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize="small")
    for axis in axes[len(titles) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _draw(axis: "Axes", run: Run, name: str, number: int) -> None:
    """Plot one curve, with a circle at the epoch of the best weights."""
    points = [(row["step"], row[name]) for row in run.history if name in row]
    if points:
        axis.plot(*zip(*points, strict=True), marker=".", label=run.name, color=colour(number))
    best = run.best_row()
    if best is not None and name == run.key_metric:
        axis.plot(best["step"], best[name], "o", markersize=9, markerfacecolor="none", color=colour(number))
