"""Seconds of a step on a clock on which everything takes a known time."""

from types import SimpleNamespace

import pytest
import torch

from custom.training import steady_state as module
from custom.training.steady_state import StepTimes, time_steps


class Trainer:
    """A step takes ``step`` seconds, a term of every 32nd step ``term`` more, and a batch ``loading``."""

    def __init__(self, monkeypatch, *, step, loading, term=0.0, workers=0, prefetch=0):
        self.now = self.steps = 0
        self.step, self.loading, self.term = step, loading, term
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.data_loader, self.amp, self.optimizer = self, False, SimpleNamespace(zero_grad=lambda **_: None)
        self.num_workers, self.prefetch_factor = workers, prefetch
        self.state = SimpleNamespace(device=torch.device("cpu"), iteration=0)
        self.loss_function = SimpleNamespace(calls=0, every={"betti": 32, "off": 2}, weights={"betti": 1.0, "off": 0.0})

    def __iter__(self):
        """A batch is begun when the one before is ready and at most ``ahead`` batches were not taken."""
        ahead = max(1, self.num_workers) * self.prefetch_factor
        ready, taken = [self.now], []
        while True:
            free = self.now if not ahead else taken[-ahead] if len(taken) >= ahead else 0
            ready.append(max(ready[-1], free) + self.loading)
            self.now = max(self.now, ready[-1])
            taken.append(self.now)
            yield {}

    def _iteration(self, *_):
        self.steps += 1
        self.now += self.step + self.term * (self.loss_function.calls % 32 == 0)
        self.loss_function.calls += 1


def test_a_loader_that_is_too_slow_shows_after_the_batches_it_prepared(monkeypatch):
    """Eight batches are prepared before, for which no step waits."""
    trainer = Trainer(monkeypatch, step=1.0, loading=2.5, workers=4, prefetch=2)
    found = time_steps(trainer, 10, 1000)
    assert len(found.own) == 12  # a multiple of the workers
    assert found.seconds == pytest.approx(2.5, rel=0.05)
    assert found.data_wait == pytest.approx(0.6, abs=0.05)
    assert found.limited_by.startswith("loading data: ")


def test_a_term_with_an_interval_counts_at_its_share(monkeypatch):
    trainer = Trainer(monkeypatch, step=1.0, loading=0.0, term=16.0)
    found = time_steps(trainer, 10, 1000)
    assert found.periodic == {"betti": 0.5}
    assert (found.seconds, found.data_wait) == (1.5, 0)
    assert found.limited_by.startswith("the loss's term betti, 0.5 s a step")
    assert trainer.loss_function.calls == 0


def test_while_a_term_is_computed_the_loader_catches_up(monkeypatch):
    """The slower of the two decides, not their sum."""
    found = time_steps(Trainer(monkeypatch, step=1.0, loading=2.0, term=16.0, workers=1, prefetch=2), 10, 1000)
    assert found.seconds == pytest.approx(2.0) and found.data_wait == pytest.approx(0.25)


def test_what_computes_limits_otherwise():
    assert StepTimes([0.0], [1.0], device="cuda").limited_by == "the GPU"
    assert StepTimes([0.05], [1.0]).limited_by == "computing on the CPU"
    cores = {0, 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "usable_cores", lambda: len(cores))
        assert StepTimes([1.0], [1.0], num_workers=1).limited_by == (
            "loading data: use more num_workers (now 1 on 2 cores)"
        )
        assert "has all 2 cores" in StepTimes([1.0], [1.0], num_workers=2).limited_by


def test_planning_ends_in_time(monkeypatch):
    """Three steps that are not timed, two that are, and the one with the term."""
    trainer = Trainer(monkeypatch, step=60.0, loading=0.0)
    time_steps(trainer, 10, 180)
    assert trainer.steps == 3 + 2 + 1
