"""What the bar shows."""

import re

from ignite.engine import Engine

from custom.handlers import ProgressBar


def test_a_step_has_a_loss_and_seconds(capsys):
    engine = Engine(lambda *_: None)
    engine.state.loss = 1.0  # as GradientGuard has it
    ProgressBar(desc="training").attach(engine)
    engine.run([0, 1, 2], max_epochs=1)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert re.search(r"training:  100%\|█+\| 3/3 \[00:0\d<00:0\d, +\d+\.\d\ds/step, loss=1\]", last), last


def test_an_evaluator_has_no_loss(capsys):
    engine = Engine(lambda *_: [{"pred": 1}])
    ProgressBar(desc="validation", unit="volume").attach(engine)
    engine.run([0, 1], max_epochs=1)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert "2/2" in last and "s/volume]" in last and "loss" not in last
