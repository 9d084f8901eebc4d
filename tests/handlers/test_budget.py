"""Runs stop in time or when asked to, say how to continue, and then do."""

import signal
import time
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from custom.handlers import Budget
from custom.handlers import budget as module

BUDGET_S = 100.0  # of which 2 s are kept in reserve
CHECKPOINT_S = 4.0  # counted half as long again


class Clock:
    """Time that passes only when something is done."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "process_age", lambda: 0.0)
    return clock


def run(clock, *, step_s, volumes_s=(), steps=5, epochs=10, accumulation=1, age=0.0):
    """Train with steps of ``step_s`` seconds; how many there were, when each validation ended, and the time."""
    trainer = Engine(lambda *_: clock.spend(step_s))
    trainer.accumulation_steps = accumulation
    evaluator = Engine(lambda _, seconds: clock.spend(seconds))
    validated = []
    evaluator.add_event_handler(Events.COMPLETED, lambda _: validated.append(clock.now - 1000))
    if volumes_s:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(volumes_s))
    checkpoints = SimpleNamespace(seconds=CHECKPOINT_S, size=0, wait=lambda: None)
    Budget(checkpoints=checkpoints, hours=BUDGET_S / 3600, evaluator=evaluator).attach(trainer)
    clock.spend(age)
    trainer.run(range(steps), max_epochs=epochs)
    return trainer.state.iteration, validated, clock.now - 1000


@pytest.mark.parametrize(
    ("step_s", "steps"),
    [
        (10.0, 9),  # after 8 steps 18 s are left for a step and 6 s; after 9 only 8 s
        (1.0, 92),  # after 91 steps 7 s are left
        (50.0, 1),
        (1000.0, 1),  # how long a step takes is not known before the first
    ],
)
def test_the_last_step_that_fits(clock, step_s, steps):
    assert run(clock, step_s=step_s, steps=1000) == (steps, [], steps * step_s)


def test_a_step_is_all_its_micro_batches(clock):
    """Groups of 3 take 30 s: after two of them 38 s are left for 36, after three 8 s."""
    assert run(clock, step_s=10.0, steps=1000, accumulation=3)[0] == 9


def test_a_validation_that_does_not_fit_is_not_begun(clock):
    """After the third epoch, at 78 s, 20 s are left for a validation of 24 s."""
    assert run(clock, step_s=2.0, volumes_s=[12.0, 12.0]) == (15, [34.0, 68.0], 78.0)


def test_a_validation_of_unknown_length_is_broken_off(clock):
    """It would take 200 s; after 85 s no volume of 20 s fits."""
    assert run(clock, step_s=1.0, volumes_s=[20.0] * 10) == (5, [], 85.0)


def test_a_validation_that_just_fits_is_completed(clock):
    """The last volume ends at 92 s, when 6 s are left for the checkpoint."""
    assert run(clock, step_s=1.0, volumes_s=[87.0]) == (5, [92.0], 92.0)


def test_nothing_begins_after_a_validation_that_used_all(clock):
    """One epoch of 50 s and a validation of 35 s leave 13 s, a step and a checkpoint take 16 s."""
    assert run(clock, step_s=10.0, volumes_s=[35.0]) == (5, [85.0], 85.0)


def test_short_enough_runs_are_complete(clock):
    assert run(clock, step_s=1.0, volumes_s=[1.0], epochs=10) == (50, [6.0 * n for n in range(1, 11)], 60.0)


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


OPTIONS = {"epochs": 2, "steps": 5, "resume": True}


def outcome(folder):
    return [
        {key: value.tolist() for key, value in torch.load(folder / name, weights_only=True).items()}
        for name in ("model.pt", "model_final.pt")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step(processes, tmp_path, number):
    processes.start(folder=tmp_path / "whole", **OPTIONS)
    assert processes.wait()[0] == 0
    processes.start(folder=tmp_path / "cut", step_s=0.3, **OPTIONS)
    wait_for(tmp_path / "cut" / "checkpoints" / "step_00000002.pt")
    processes.signal(number)
    status, output = processes.wait()
    assert status == 0, output
    assert f"Stopped by {signal.Signals(number).name} after" in output
    assert output.strip().endswith("--resume True")
    assert not (tmp_path / "cut" / "model_final.pt").exists()
    processes.start(folder=tmp_path / "cut", **OPTIONS)
    assert processes.wait()[0] == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_stops_within_a_validation(processes, tmp_path):
    processes.start(folder=tmp_path / "whole", **OPTIONS)
    assert processes.wait()[0] == 0
    processes.start(folder=tmp_path / "cut", volume_s=0.5, minutes=60, **OPTIONS)
    wait_for(tmp_path / "cut" / "checkpoints" / "step_00000005.pt")
    processes.signal(signal.SIGTERM)
    status, output = processes.wait()
    assert status == 0, output
    assert "Stopped by SIGTERM after 5 of 10 steps" in output
    assert not (tmp_path / "cut" / "model.pt").exists() and not (tmp_path / "cut" / "metrics.csv").exists()
    processes.start(folder=tmp_path / "cut", **OPTIONS)
    assert processes.wait()[0] == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_budget_of_seconds_stops_and_continues(processes, tmp_path):
    options = {"folder": tmp_path, "step_s": 0.2, "epochs": 20, "steps": 5, "resume": True}
    processes.start(hours=15 / 3600, **options)
    status, output = processes.wait()
    assert status == 0, output
    assert "Stopped by the budget of 0.00416667 h after" in output
    done = int(output.split(" of 100 steps")[0].split()[-1])
    assert 0 < done < 100
    assert (tmp_path / "checkpoints" / f"step_{done:08d}.pt").exists()
    processes.start(**options | {"step_s": 0.0})
    assert processes.wait()[0] == 0
    assert (tmp_path / "model_final.pt").exists()


def test_the_signals_are_given_back(clock):
    before = signal.getsignal(signal.SIGTERM)
    trainer = Engine(lambda *_: None)
    within = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: within.append(signal.getsignal(signal.SIGTERM)))
    Budget(checkpoints=SimpleNamespace(seconds=0, size=0, wait=lambda: None)).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert within != [before] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            [
                *("/usr/bin/python3", "-m", "monai.bundle", "run", "training"),
                *("--config_file", "['a.json', 'b.json']", "--patch_size", "[1, 2]"),
            ],
            "python -m monai.bundle run training --config_file \"['a.json', 'b.json']\""
            " --patch_size '[1, 2]' --resume True",
        ),
        (
            ["python", "-m", "monai.bundle", "run", "--output_dir=/runs/2", "--resume", "True"],
            "python -m monai.bundle run --output_dir=/runs/2 --resume True",
        ),
        (
            ["python", "-m", "monai.bundle", "run", "--resume", "False", "--epochs", "3"],
            "python -m monai.bundle run --epochs 3 --resume True",
        ),
        (
            ["python", "-m", "monai.bundle", "run", "--resume=False", "--epochs=3"],
            "python -m monai.bundle run --epochs=3 --resume True",
        ),
        (
            ["python", "-m", "monai.bundle", "run", "--resume", "--epochs", "3"],
            "python -m monai.bundle run --epochs 3 --resume True",
        ),
    ],
)
def test_the_line_that_continues(monkeypatch, given, line):
    monkeypatch.setattr("sys.orig_argv", given)
    assert module.continuing_line() == line


def test_the_line_under_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python", "-u", "-m", "monai.bundle", "run"])
    assert module.continuing_line() == "torchrun --nproc_per_node=2 -m monai.bundle run --resume True"


def test_the_age_of_this_process():
    first = module.process_age()
    time.sleep(0.05)
    assert 0.03 < module.process_age() - first < 30
    assert first > 1  # pytest and torch were imported
