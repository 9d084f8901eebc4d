"""What dropout draws in an iteration depends on the seed and the iteration."""

import torch
from ignite.engine import Engine

from custom.handlers import SeedSteps


def draws(seed, iterations, start=0, disturb=False):
    drawn = []

    def step(engine, _):
        drawn.append(torch.rand(4))
        if disturb:
            torch.rand(7)

    engine = Engine(step)
    SeedSteps(seed=seed).attach(engine)
    engine.load_state_dict({"iteration": start, "max_epochs": 1, "epoch_length": iterations})
    engine.run(range(iterations), max_epochs=1)
    return torch.stack(drawn)


def test_the_same_wherever_the_run_was_entered():
    whole = draws(0, 6)
    assert torch.equal(whole, draws(0, 6, disturb=True))
    assert torch.equal(whole[4:], draws(0, 6, start=4))


def test_different_for_every_iteration_and_seed():
    both = torch.cat([draws(0, 6), draws(1, 6)]).flatten()
    assert len(both.unique()) == len(both)


def test_different_for_every_rank(monkeypatch):
    first = draws(0, 2)
    monkeypatch.setattr("custom.handlers.seed.rank", lambda: 1)
    assert not torch.equal(first, draws(0, 2))


def test_cudnn_measures_its_kernels_unless_results_are_to_be_reproducible(monkeypatch):
    cudnn = torch.backends.cudnn
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))
    SeedSteps(seed=0).attach(Engine(lambda *_: None))
    assert cudnn.benchmark and not cudnn.deterministic
    SeedSteps(seed=0, deterministic=True).attach(Engine(lambda *_: None))
    assert cudnn.deterministic and not cudnn.benchmark
