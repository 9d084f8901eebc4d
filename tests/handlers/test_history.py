"""The table of a run against numbers worked out by hand."""

import csv

import torch
from ignite.engine import Engine, Events

from custom.handlers import History
from custom.handlers.history import metric_names


def train(tmp_path, losses, scores, every=1):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    trainer = Engine(lambda _, loss: {"loss": torch.tensor(loss)})
    evaluator = Engine(lambda *_: None)
    scores = iter(scores)
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: engine.state.metrics.update(dice=next(scores)))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=every), lambda _: evaluator.run([0]))
    History(output_dir=str(tmp_path), optimizer=optimizer, evaluator=evaluator).attach(trainer)
    trainer.run(losses, max_epochs=2)
    with (tmp_path / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_one_row_an_epoch(tmp_path):
    rows = train(tmp_path, [1.0, 2.0, 6.0], scores=[0.25, 0.5])
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["3", "6"]
    assert [row["train_loss"] for row in rows] == ["3.0", "3.0"]
    assert [row["learning_rate"] for row in rows] == ["0.5", "0.5"]
    assert [row["dice"] for row in rows] == ["0.25", "0.5"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_no_metric_in_an_epoch_without_validation(tmp_path):
    rows = train(tmp_path, [1.0], scores=[0.75], every=2)
    assert [row["dice"] for row in rows] == ["", "0.75"]


def test_only_metrics_between_0_and_1_share_the_axis():
    rows = [{"epoch": 1, "train_loss": 0.3, "dice": 0.5, "hd95": 12.0}, {"epoch": 2, "train_loss": 0.2, "dice": 0.6}]
    assert metric_names(rows) == ["dice"]
