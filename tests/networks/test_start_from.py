"""Training from existing weights."""

import pytest
import torch

from custom.errors import DataError
from custom.networks import start_from


@pytest.fixture
def weights(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    return str(tmp_path / "model.pt")


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 1, 1))


def test_weights_are_loaded_and_all_layers_trained(weights):
    started = start_from(network=network(), weights=weights)
    assert torch.equal(started[0].weight, torch.load(weights)["0.weight"])
    assert all(parameter.requires_grad for parameter in started.parameters())


def test_only_the_named_parameters_are_trained(weights):
    started = start_from(network=network(), weights=weights, trained=["1.*"])
    assert [name for name, parameter in started.named_parameters() if parameter.requires_grad] == ["1.weight", "1.bias"]


def test_other_weights_and_names_are_refused(weights):
    with pytest.raises(DataError, match="missing keys"):
        start_from(network=torch.nn.Linear(1, 1), weights=weights)
    with pytest.raises(DataError, match=r"'head\.\*'"):
        start_from(network=network(), weights=weights, trained=["head.*"])
