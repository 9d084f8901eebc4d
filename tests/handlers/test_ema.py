"""The average of the weights against the formula."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from custom.handlers import EMA


class Normed(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_follows_the_formula_step_by_step(make_trainer, batches, accumulation):
    network = Normed()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(copy.deepcopy(network.state_dict())))
    ema = EMA(network=network, optimizer=optimizer, decay=0.25)
    make_trainer(network, batches, optimizer=optimizer, accumulation_steps=accumulation).run()

    expected = {key: value.double() for key, value in seen[0].items()}
    for step, state in enumerate(seen[1:], start=1):
        decay = min(0.25, (1 + step) / (10 + step))
        for key in expected:
            expected[key] = decay * expected[key] + (1 - decay) * state[key]
    averaged = ema.network.state_dict()
    assert list(averaged) == list(network.state_dict())
    for key, value in averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
    assert averaged["1.num_batches_tracked"] == network[1].num_batches_tracked == 7
    assert not torch.equal(averaged["0.weight"], network[0].weight)


@pytest.mark.parametrize("decay", [None, 0])
def test_without_decay_the_network_itself(make_trainer, batches, decay):
    network = Normed()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ema = EMA(network=network, optimizer=optimizer, decay=decay)
    make_trainer(network, batches, optimizer=optimizer).run()
    assert ema.network is network
    assert ema.state_dict() == {}


def test_its_state_goes_on_in_another_process(batches):
    def build():
        torch.manual_seed(0)
        network = Normed()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        return network, optimizer, EMA(network=network, optimizer=optimizer)

    def step(network, optimizer, batch):
        optimizer.zero_grad()
        network(batch["image"]).square().mean().backward()
        optimizer.step()

    network, optimizer, ema = build()
    for batch in batches:
        step(network, optimizer, batch)
    again_network, again_optimizer, again = build()
    for batch in batches[:3]:
        step(again_network, again_optimizer, batch)
    other_network, other_optimizer, other = build()
    other_network.load_state_dict(again_network.state_dict())
    other.load_state_dict(again.state_dict())
    for batch in batches[3:]:
        step(other_network, other_optimizer, batch)
    for key, value in ema.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[key]), key


def test_autocast_casts_its_weights_once(batches):
    """Of weights that say ``requires_grad`` autocast keeps the cast, until its context ends."""
    network = Normed()
    ema = EMA(network=network, optimizer=torch.optim.SGD(network.parameters()))
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and any(args[0] is p for p in ema.network.parameters()):
                casts.append(args[0].shape)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Casts():
        for batch in batches:
            ema.network.eval()(batch["image"])
    assert len(casts) == 4  # weights and biases of two layers


def test_refuses_a_decay_that_forgets_nothing():
    network = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="decay is 0 to below 1"):
        EMA(network=network, optimizer=torch.optim.SGD(network.parameters()), decay=1.0)
