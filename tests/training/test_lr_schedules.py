"""Each schedule against its formula."""

import math

import pytest
import torch

from custom.errors import DataError
from custom.training.lr_schedules import build_schedule


def rates(steps, lr=2.0, **options):
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = build_schedule(optimizer=optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_poly_is_nnunets():
    assert rates(10, name="poly", total_steps=10) == pytest.approx([2 * (1 - s / 10) ** 0.9 for s in range(10)])


def test_poly_after_a_warm_up():
    found = rates(12, name="poly", total_steps=12, warmup_steps=4, power=2.0)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[4:] == pytest.approx([2 * (1 - s / 8) ** 2 for s in range(8)])


def test_cosine_with_a_warm_up():
    found = rates(10, name="cosine", total_steps=10, warmup_steps=2)
    assert found[:2] == pytest.approx([1.0, 2.0])
    assert found[2:] == pytest.approx([1 + math.cos(math.pi * s / 8) for s in range(8)])


def test_constant():
    assert rates(4, name="constant", total_steps=4, warmup_steps=2) == pytest.approx([1.0, 2.0, 2.0, 2.0])


def test_one_cycle():
    """Smith and Topin's policy as torch has it: up and down along cosines, from 1/25 over 1 to 1/250000."""
    found = rates(11, name="one_cycle", total_steps=11, warmup_steps=5.5)
    low, high, end = 2 / 25, 2.0, 2 / 25 / 1e4
    assert found[0] == pytest.approx(low)
    up = [low + (high - low) * (1 - math.cos(math.pi * s / 4.5)) / 2 for s in range(5)]
    down = [end + (high - end) * (1 + math.cos(math.pi * (s - 4.5) / 5.5)) / 2 for s in range(5, 11)]
    assert found == pytest.approx(up + down)


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_the_rate_stays_at_its_end(name):
    assert rates(6, name=name, total_steps=3)[3:] == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("name", ["poly", "cosine", "constant", "one_cycle", "plateau"])
def test_goes_on_from_its_state(name, tmp_path):
    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
        return optimizer, build_schedule(optimizer=optimizer, name=name, total_steps=20)

    def step(optimizer, scheduler, n):
        optimizer.step()
        scheduler.step(*([0.5] if name == "plateau" else []))
        return [group["lr"] for group in optimizer.param_groups]

    optimizer, scheduler = build()
    whole = [step(optimizer, scheduler, n) for n in range(20)]
    optimizer, scheduler = build()
    for n in range(12):
        step(optimizer, scheduler, n)
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
    optimizer, scheduler = build()
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for thing, state in zip((optimizer, scheduler), states, strict=True):
        thing.load_state_dict(state)
    assert [step(optimizer, scheduler, n) for n in range(12, 20)] == whole[12:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "step"}, "name: found 'step', expected one of poly, cosine, constant, one_cycle, plateau"),
        ({"warmup_steps": 10}, "warmup_steps: found 10, expected 0 or more, and fewer than the run's 10"),
        ({"total_steps": 0}, "epochs, steps_per_epoch: found a run of 0 steps, expected 1 or more"),
        ({"name": "plateau", "warmup_steps": 1}, "has no warm-up"),
        ({"name": "one_cycle", "warmup_steps": 1}, "found 1 of 10 steps, expected 'one_cycle' with 0 or 2 or more"),
        ({"name": "one_cycle", "total_steps": 1}, "found 0 of 1 steps, expected 'one_cycle' with"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(DataError, match=message):
        rates(0, **{"total_steps": 10, **options})
