"""Shares of time, from a clock of its own."""

import pytest
from ignite.engine import Engine, Events

from custom.handlers import Resources
from custom.handlers import resources as module


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_waiting_is_apart_from_computing(clock):
    """Batches take 1 s and 3 s, steps 2 s, and a validation does not count."""

    class Data:
        def __iter__(self):
            for seconds in (1.0, 3.0) * 2:
                clock.now += seconds
                yield seconds

    def step(*_):
        clock.now += 2.0

    engine = Engine(step)
    Resources().attach(engine)
    found = []

    def validate(engine):
        found.append(dict(engine.state.resources))
        clock.now += 100.0

    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    engine.run(Data(), max_epochs=2, epoch_length=2)
    for epoch in found:
        assert epoch["seconds_per_step"] == 4.0
        assert epoch["data_wait"] == 0.5
        assert 0.05 < epoch["memory_gib"] < 64


def test_an_epoch_that_was_over_already():
    engine = Engine(lambda *_: None)
    Resources().attach(engine)
    engine.add_event_handler(Events.STARTED, lambda e: e.fire_event(Events.EPOCH_COMPLETED))
    engine.add_event_handler(Events.ITERATION_STARTED, lambda e: e.terminate())
    engine.run([0], max_epochs=1)
    assert engine.state.resources == {}
