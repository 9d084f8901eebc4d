"""The curves and scores of several runs, drawn together."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from custom.handlers.history import metric_names

from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#444444")
"""Told apart by the colour-blind, too (Okabe and Ito)."""
LINES = ("-", "--", ":", "-.")
RESOURCES = {
    "seconds_per_step": "seconds a step",
    "data_wait": "share waiting for data",
    "memory_gib": "main memory, GiB",
    "gpu_memory_gib": "GPU memory, GiB",
}
COLUMNS = 3


def colour(number: int) -> str:
    """Of the run with this number."""
    return COLOURS[number % len(COLOURS)]


def learning_curves(runs: Sequence[Run]) -> bytes | None:
    """Loss, learning rate and scores by step, and the key score by time; a PNG, or None without a history."""
    plots: list[tuple[str, str, str, float]] = [
        ("training loss", "step", "train_loss", 1),
        ("learning rate", "step", "learning_rate", 1),
    ]
    scores = list(dict.fromkeys(name for run in runs for name in metric_names(run.history)))
    key = next((run.key_metric for run in runs if run.key_metric in scores), scores[0] if scores else None)
    if key is not None:
        scores.sort(key=lambda name: name != key)
        hours = max(row["seconds"] for run in runs for row in run.history) > 2 * 3600
        unit, length = ("hours", 3600) if hours else ("minutes", 60)
        plots += [(f"{key} by {unit}", "seconds", key, length)]
    plots[2:2] = [(name, "step", name, 1) for name in scores]
    return _curves(runs, plots, set(scores))


def resource_curves(runs: Sequence[Run]) -> bytes | None:
    """Time and memory by optimizer step; a PNG, or None where nothing was measured."""
    return _curves(runs, [(title, "step", name, 1) for name, title in RESOURCES.items()], {"data_wait"})


def _curves(runs: Sequence[Run], plots: list[tuple[str, str, str, float]], shares: set[str]) -> bytes | None:
    """A plot for each title, column and unit of the horizontal axis, column of the vertical one; shares lie in 0..1."""
    plots = [plot for plot in plots if any(run.measured(plot[2]) for run in runs)]
    if not plots:
        return None
    from matplotlib.figure import Figure

    rows = -(-len(plots) // COLUMNS)
    figure = Figure(figsize=(3.9 * COLUMNS, 2.75 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axis, (title, across, name, unit) in zip(axes, plots, strict=False):
        for number, run in enumerate(runs):
            style = {"color": colour(number), "linestyle": LINES[number // len(COLOURS) % len(LINES)]}
            points = [(row[across] / unit, row[name]) for row in run.history if name in row and across in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=run.name, **style)
            best = run.best_row()
            if best is not None and name == run.key_metric:
                axis.plot(
                    best[across] / unit, best[name], "o", markersize=9, markerfacecolor="none", color=style["color"]
                )
        axis.set_title(title.replace("_", " "), fontsize="medium")
        if across == "step":
            axis.set_xlabel("step", fontsize="small")
        if name in shares:
            axis.set_ylim(-0.03, 1.03)
        _tidy(axis)
    for axis in figure.axes[len(plots) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=min(len(labels), 6), fontsize="small", frameon=False
        )
    return _png(figure)


def score_spread(runs: Sequence[Run]) -> bytes | None:
    """A dot for each volume and a line at the mean, by run; a PNG, or None where there are no scores in 0..1."""
    names = list(dict.fromkeys(name for run in runs for name in metric_names(list(run.cases.values()))))
    if not names:
        return None
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    scored = [(number, run) for number, run in enumerate(runs) if run.cases]
    figure = Figure(figsize=(3.9 * COLUMNS, rows * (0.9 + 0.34 * len(scored))), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        for height, (number, run) in enumerate(scored):
            values = run.scores().get(name, [])
            heights = [height + 0.3 * ((n % 5) / 4 - 0.5) for n in range(len(values))]  # dots beside one another
            axis.plot(values, heights, "o", color=colour(number), alpha=0.6, markeredgewidth=0, markersize=5)
            if values:
                mean = sum(values) / len(values)
                axis.plot([mean, mean], [height - 0.35, height + 0.35], color="black", linewidth=1.5)
        axis.set_title(name.replace("_", " "), fontsize="medium")
        axis.set(xlim=(-0.03, 1.03), ylim=(len(scored) - 0.5, -0.5))
        axis.set_yticks(range(len(scored)), [run.name for _, run in scored])
        _tidy(axis)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    return _png(figure)


def _tidy(axis: "Axes") -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize="small")


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
