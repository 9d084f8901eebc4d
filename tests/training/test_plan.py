"""A plan's numbers from a clock on which everything takes a known time."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SlidingWindowInferer

from custom.errors import DataError
from custom.handlers import Checkpoints
from custom.training import plan as module
from custom.training import steady_state
from custom.training.plan import FirstWindows, Plan, _duration

STEP_S, WAIT_S, WINDOW_S, SCORE_S, SET_UP_S = 3.0, 1.0, 5.0, 20.0, 60.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(steady_state, "time", clock)
    monkeypatch.setattr(module, "process_age", lambda: SET_UP_S)
    return clock


class Network(torch.nn.Conv3d):
    """A window takes 5 s in a validation, a step 3 s."""

    def __init__(self, clock):
        super().__init__(1, 1, 1)
        self.clock = clock
        self.windows = 0

    def forward(self, x):
        self.windows += not self.training
        self.clock.now += STEP_S if self.training else WINDOW_S
        return super().forward(x)


class Data:
    """Without end, and a second to wait for each."""

    def __init__(self, clock):
        self.clock = clock

    def __iter__(self):
        while True:
            self.clock.now += WAIT_S
            yield {"image": torch.rand(2, 1, 4, 4, 4), "label": torch.rand(2, 1, 4, 4, 4)}


ROOM = SimpleNamespace(keep=2, size=0, folder=Path(), check_space=lambda: None)


def make(clock, *, epochs=4, steps_per_epoch=100, loss=None, checkpoints=ROOM, budget_hours=None, **options):
    network = Network(clock)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=steps_per_epoch,
        train_data_loader=Data(clock),
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=loss or torch.nn.MSELoss(),
        decollate=False,
    )
    volume = {"image": torch.rand(1, 1, 8, 8, 8), "label": torch.ones(1, 1, 8, 8, 8)}
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[volume] * 3,
        network=network,
        inferer=SlidingWindowInferer(roi_size=(4, 4, 4), overlap=0.5),
    )

    def metric(predictions, labels):
        assert [tuple(label.shape) for label in labels] == [(1, 8, 8, 8)]
        clock.now += SCORE_S

    run = SimpleNamespace(checkpoints=checkpoints, budget_hours=budget_hours)
    return Plan(trainer=trainer, evaluator=evaluator, metric=metric, run=run, **options)


def test_the_numbers(clock, capsys):
    """27 windows of 4 in a volume of 8, of which three are computed; 3 volumes."""
    plan = make(clock, val_interval=2, budget_hours=1.0)
    found = plan.run()
    step, validation = STEP_S + WAIT_S, 3 * (27 * WINDOW_S + SCORE_S)
    assert plan.trainer.network.windows == 3
    assert found["seconds_per_step"] == step and found["data_wait"] == 0.25
    assert found["validation_s"] == validation
    assert found["epoch_h"] == pytest.approx((100 * step + validation / 2) / 3600)
    assert found["run_h"] == pytest.approx((SET_UP_S + 4 * 100 * step + 2 * validation) / 3600)
    # 98 % of the hour without set-up and two validations, over four epochs
    assert found["steps_per_epoch"] == int((0.98 * 3600 - SET_UP_S - 2 * validation) / 4 / step)
    printed = capsys.readouterr().out
    for line in (
        "| network | Network, 0.0 million weights |",
        "| batch | 2 x 1 x 4 x 4 x 4, 1 in an optimizer step |",
        "| seconds a step | 4 (from 4 to 4 in 10 steps) |",
        "| waiting for data | 25% |",
        "| limited by | loading data: use more num_workers (now 0 on ",
        "| a validation | 7.8 min (volumes: 3, calls of the network for the first: 27) |",
        "| an epoch of 100 steps | 10.5 min |",
        "| the run of 4 epochs | 43.2 min |",
        "| within budget_hours 1 | 158 steps_per_epoch for 4 epochs |",
    ):
        assert line in printed, printed


def test_the_steps_are_real_ones(clock):
    plan = make(clock)
    before = copy.deepcopy(plan.trainer.network.weight)
    plan.run()
    assert not torch.equal(before, plan.trainer.network.weight)
    assert plan.trainer.state.iteration == 0 and plan.trainer.network.weight.grad is None


def test_a_budget_too_small_for_one_step_is_refused(clock):
    with pytest.raises(DataError, match=r"budget_hours 0\.01: found too little time .* fewer epochs"):
        make(clock, budget_hours=0.01).run()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_step_that_does_not_fit_names_the_knobs(clock, error):
    def loss(*_):
        raise error

    with pytest.raises(DataError) as refusal:
        make(clock, loss=loss).run()
    assert str(refusal.value).startswith("the CPU: found too little memory for a training step")
    assert "batch_size" in str(refusal.value) and "\n" not in str(refusal.value)


def test_other_errors_are_not_about_memory(clock):
    def loss(*_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        make(clock, loss=loss).run()


def test_a_full_disk_is_refused(clock, tmp_path):
    network = torch.nn.Linear(100, 100)
    checkpoints = Checkpoints(folder=str(tmp_path / "new" / "checkpoints"), objects={"network": network}, keep=2)
    make(clock, checkpoints=checkpoints).run()
    checkpoints.keep = 10**12
    with pytest.raises(DataError, match="too little free space"):
        make(clock, checkpoints=checkpoints).run()


def test_windows_of_two_sizes_are_both_predicted():
    network = FirstWindows(torch.nn.Identity())
    for size in (2, 2, 2, 2, 3, 3, 2):
        assert network(torch.zeros(size)).shape == (size,)
    assert network.calls == 7


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (119, "119.0 s"), (120, "2.0 min"), (7200, "2.0 h"), (86400 * 9.5, "9.5 days")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text
