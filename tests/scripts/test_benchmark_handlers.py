"""The section on handlers at a size where its timings say nothing."""

import re

import pytest
import torch
from ignite.engine import Events

from scripts.benchmarks import handlers
from scripts.benchmarks.handlers import Sizes, make_trainer, run, seconds_per_step
from scripts.benchmarks.measure import SURFACE, read_config

import custom.handlers
from custom.handlers import RunRecord

TINY = Sizes(patch=(1, 8, 16, 16), filters=8, steps=3, repeats=1)


def test_every_row_is_measured_and_has_its_goal():
    rows = run("cpu", TINY)
    assert [row.goal for row in rows] == ["<= 1.03", "<= 1"]
    assert all(row.ratio > 0 for row in rows)
    assert "1 x 8 x 16 x 16" in rows[0].what


def test_a_step_is_timed_without_what_is_done_once(monkeypatch):
    """A clock that goes on by 1 in a step, by 100 at the end of a run, and by less in the run that does not count."""
    now = [0.0]
    monkeypatch.setattr(handlers, "perf_counter", lambda: now[0])
    data = {"image": torch.rand(1, 1, 8, 16, 16), "label": torch.zeros(1, 1, 8, 16, 16), "id": ["case"]}
    trainer = make_trainer("cpu", data, TINY)
    runs = []

    def spend(seconds):
        now[0] += seconds

    trainer.add_event_handler(Events.STARTED, lambda _: runs.append(1))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: spend(1 if len(runs) > 1 else 0.5))
    trainer.add_event_handler(Events.COMPLETED, lambda _: spend(100))
    assert seconds_per_step([trainer], "cpu", 1) == [1.0]
    assert len(runs) == 2


def test_the_handlers_are_those_of_the_bundles(tmp_path):
    """All of train.json, but for what is not done in every step."""
    data = {"image": torch.rand(1, 1, 8, 16, 16), "label": torch.zeros(1, 1, 8, 16, 16), "id": ["case"]}
    network = make_trainer("cpu", data, TINY).network
    optimizer = torch.optim.SGD(network.parameters())
    made = {type(handler).__name__ for handler in handlers.all_handlers(network, optimizer, network, tmp_path)}
    config = read_config(SURFACE, "train")["train"]["handlers"]
    groups = [getattr(custom.handlers, name) for name in ("StepHandlers", "RunHandlers")]
    assert {f"custom.handlers.{group.__name__}" for group in groups} <= {handler["_target_"] for handler in config}
    members = {name for group in groups for name in re.findall(r"^    \w+ +:class:`(\w+)`", group.__doc__, re.M)}
    not_in_a_step = {"Checkpoints", "SaveFinalWeights", RunRecord.__name__, "ProgressBar", "RemoteCopy"}
    assert members - not_in_a_step == made


@pytest.mark.parametrize("with_handlers", [False, True])
def test_the_trainer_trains(tmp_path, with_handlers):
    data = {
        "image": torch.rand(1, 1, 8, 16, 16),
        "label": torch.randint(0, 3, (1, 1, 8, 16, 16), dtype=torch.uint8),
        "id": ["case"],
    }
    trainer = make_trainer("cpu", data, TINY, tmp_path if with_handlers else None)
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    trainer.run()
    assert trainer.state.iteration == 3
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
