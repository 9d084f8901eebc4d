"""What the bar shows."""

import re

import torch
from ignite.engine import Engine

from custom.handlers import ProgressBar


def test_a_step_has_a_loss_and_seconds(capsys):
    losses = iter([1.0, 0.5, 0.25])
    engine = Engine(lambda *_: {"loss": torch.tensor(next(losses))})
    ProgressBar(desc="training").attach(engine)
    engine.run([0, 1, 2], max_epochs=1)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert re.search(r"training:  100%\|█+\| 3/3 \[00:0\d<00:0\d, +\d+\.\d\ds/step, loss=1\]", last), last


def test_the_loss_is_read_now_and_then_only(monkeypatch):
    bar, engine = ProgressBar(), Engine(lambda *_: None)
    now = iter([10.0, 10.1, 10.2, 10.6, 10.7])
    monkeypatch.setattr("custom.handlers.progress.time.monotonic", lambda: next(now))
    shown = [bar._loss(engine, {"loss": torch.tensor(float(n))})["loss"] for n in range(5)]
    assert shown == [0, 0, 0, 3, 3]


def test_an_evaluator_has_no_loss(capsys):
    engine = Engine(lambda *_: [{"pred": 1}])
    ProgressBar(desc="validation", unit="volume").attach(engine)
    engine.run([0, 1], max_epochs=1)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert "2/2" in last and "s/volume]" in last and "loss" not in last
