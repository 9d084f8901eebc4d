"""Training history: a table with one row per epoch, and curves."""

import csv
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch
from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..system.distributed import rank
from ..system.files import dispensable, write_whole

TABLE = "metrics.csv"
PICTURE = "curves.png"
NOT_METRICS = {
    *("epoch", "step", "seconds", "learning_rate", "train_loss"),
    *("seconds_per_step", "data_wait", "memory_gib", "gpu_memory_gib"),
}


@without_effect()
class History:
    """Writes ``metrics.csv``, one row per epoch, and plots it as ``curves.png`` when training ends or is stopped.

    The columns are ``epoch``, ``step``, ``seconds`` (of training, summed over sessions), ``learning_rate``,
    ``train_loss`` (mean over the epoch's steps), the measurements of :class:`Resources`, and the evaluator's metrics
    (empty in epochs without validation). List it after the ``ValidationHandler``. Its state dict, saved by
    :class:`Checkpoints`, lets a resumed run continue the table. With several ranks, rank 0 writes.

    Example: ``{"_target_": "custom.handlers.History", "output_dir": "@results_dir", "optimizer": "@optimizer"}``
    """

    def __init__(self, *, output_dir: str, optimizer: torch.optim.Optimizer, evaluator: Engine | None = None) -> None:
        self.output_dir, self.optimizer, self.evaluator = Path(output_dir), optimizer, evaluator
        self.rows: list[dict[str, Any]] = []
        self._losses: list[torch.Tensor] = []
        self._earlier_losses = torch.empty(0)
        self._validated = False
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_row)
        for end in (Events.TERMINATE, Events.COMPLETED):
            engine.add_event_handler(end, self._draw)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, lambda _: setattr(self, "_validated", True))

    def state_dict(self) -> dict[str, Any]:
        """Return the table, the losses of the current epoch, and the seconds of training so far."""
        seconds = time.monotonic() - self._started
        return {"rows": [dict(row) for row in self.rows], "losses": self._epoch_losses(), "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
        self._earlier_losses, self._losses = state["losses"], []
        self._started = time.monotonic() - state["seconds"]

    def _epoch_losses(self) -> torch.Tensor:
        losses = torch.stack(self._losses).float().cpu() if self._losses else torch.empty(0)
        return torch.cat([self._earlier_losses, losses])

    def _start(self, _: Engine) -> None:
        self._started = time.monotonic()

    def _remember_loss(self, engine: Engine) -> None:
        # Kept on the device: reading the value here would make every step wait for the GPU.
        self._losses.append(engine.state.output["loss"].detach())

    def _write_row(self, engine: Engine) -> None:
        if engine.should_terminate == "skip_completed":  # the validation was interrupted and will be repeated
            return
        row = {
            "epoch": engine.state.epoch,
            "step": engine.state.iteration,
            "seconds": round(time.monotonic() - self._started, 2),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": float(self._epoch_losses().mean()),
            **getattr(engine.state, "resources", {}),
        }
        if self.evaluator is not None and self._validated:
            row.update({name: _number(value) for name, value in self.evaluator.state.metrics.items()})
        self.rows.append(row)
        self._earlier_losses, self._losses, self._validated = torch.empty(0), [], False
        if rank() == 0:
            with dispensable(self.output_dir / TABLE):  # written anew after each epoch
                write_rows(self.output_dir / TABLE, self.rows)

    def _draw(self, _: Engine) -> None:
        if self.rows and rank() == 0:
            with dispensable(self.output_dir / PICTURE):
                write_whole(self.output_dir / PICTURE, lambda file: draw_curves(self.rows, file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write dictionaries as a CSV file whose columns are all their keys, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def write(file: Path) -> None:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, write)


def draw_curves(rows: list[dict[str, Any]], file: Path | BinaryIO) -> None:
    """Plot loss and metrics over the epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss_axis, metric_axis = figure.subplots(1, 2)
    loss_axis.plot([row["epoch"] for row in rows], [row["train_loss"] for row in rows], color="tab:gray")
    loss_axis.set(xlabel="epoch", ylabel="training loss")
    for name in metric_names(rows):
        points = [(row["epoch"], row[name]) for row in rows if isinstance(row.get(name), float)]
        metric_axis.plot(*zip(*points, strict=True), label=name, marker=".")
    metric_axis.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    if metric_axis.lines:
        metric_axis.legend(fontsize="small")
    for axis in (loss_axis, metric_axis):
        axis.grid(alpha=0.3)
    figure.savefig(file, format="png", dpi=110)


def metric_names(rows: list[dict[str, Any]]) -> list[str]:
    """Return the validation metrics to plot: scores between 0 and 1 for which higher is better."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_METRICS)
    values = {name: [row[name] for row in rows if isinstance(row.get(name), float)] for name in names}
    growing = [name for name in names if name.endswith(("dice", "score", "f1"))]
    return [name for name in growing if values[name] and all(0 <= value <= 1 for value in values[name])]


def _number(value: Any) -> float | str:
    return float(value) if isinstance(value, int | float | torch.Tensor) and torch.as_tensor(value).numel() == 1 else ""
