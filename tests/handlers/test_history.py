"""The table of a run against numbers worked out by hand."""

import csv

import torch
from ignite.engine import Engine, Events

from custom.handlers import History
from custom.handlers.history import metric_names


def train(tmp_path, losses, scores, every=1, resources=None):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    trainer = Engine(lambda _, loss: {"loss": torch.tensor(loss)})
    evaluator = Engine(lambda *_: None)
    trainer.state.resources = resources or {}
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


def test_what_was_measured_is_in_the_table_and_no_metric(tmp_path):
    rows = train(tmp_path, [1.0], scores=[0.5, 0.5], resources={"data_wait": 0.25})
    assert [row["data_wait"] for row in rows] == ["0.25", "0.25"]
    assert metric_names([{"epoch": 1, "data_wait": 0.25, "dice": 0.5}]) == ["dice"]


def test_goes_on_within_an_epoch(tmp_path):
    """The mean of the epoch is over its losses in both sessions."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    losses = iter([1.0, 3.0, 2.0, 6.0])
    first, second = (Engine(lambda *_: {"loss": torch.tensor(next(losses))}) for _ in range(2))
    history = History(output_dir=str(tmp_path / "first"), optimizer=optimizer)
    history.attach(first)
    first.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda e: e.terminate(skip_completed=True))
    first.run(range(2), max_epochs=2)
    state = history.state_dict()
    assert state["losses"].tolist() == [2.0]

    again = History(output_dir=str(tmp_path / "second"), optimizer=optimizer)
    again.attach(second)
    second.add_event_handler(Events.STARTED, lambda _: again.load_state_dict(state))
    second.load_state_dict({"iteration": 3, "max_epochs": 2, "epoch_length": 2})
    second.run(range(2), max_epochs=2)
    with (tmp_path / "second" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["step"], row["train_loss"]) for row in rows] == [("1", "2", "2.0"), ("2", "4", "4.0")]


def test_an_interrupted_validation_makes_no_row(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    trainer = Engine(lambda *_: {"loss": torch.tensor(1.0)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.terminate(skip_completed=True))
    History(output_dir=str(tmp_path), optimizer=optimizer).attach(trainer)
    trainer.run([0], max_epochs=2)
    assert not list(tmp_path.iterdir())


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.handlers.history.rank", lambda: 1)
    trainer = Engine(lambda *_: {"loss": torch.tensor(1.0)})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    History(output_dir=str(tmp_path), optimizer=optimizer).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_only_metrics_between_0_and_1_share_the_axis():
    rows = [{"epoch": 1, "train_loss": 0.3, "dice": 0.5, "hd95": 12.0}, {"epoch": 2, "train_loss": 0.2, "dice": 0.6}]
    assert metric_names(rows) == ["dice"]
