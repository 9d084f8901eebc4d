"""The mean of probabilities, whatever takes the ensemble for a network."""

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

import custom.networks
from custom.errors import DataError
from custom.handlers import LoadWeights
from custom.inferers import SliceVolumeInferer, SlidingWindow
from custom.networks.ensemble import Ensemble, build_ensemble


def network(channels=3):
    return torch.nn.Conv3d(1, channels, 3, padding=1)


@pytest.fixture
def checkpoints(tmp_path):
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        path = tmp_path / f"{seed}.pt"
        state = network().state_dict()
        torch.save({key: 5 * value for key, value in state.items()}, path)
        paths.append(str(path))
    return paths


def load(network, paths):
    engine = Engine(lambda *_: None)
    LoadWeights(path=paths, network=network).attach(engine)
    engine.run([0])
    return network.eval()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@torch.no_grad()
def test_inferers_return_the_mean_of_what_the_members_give(checkpoints, activation):
    volume = torch.rand(1, 1, 9, 8, 11)
    inferer = SlidingWindow(
        roi_size=(6, 6, 6), overlap=(0.5, 0.3, 0), activation=activation, tta=["depth"], precision="float32"
    )
    ensemble = load(build_ensemble(network(), checkpoint=checkpoints, activation=activation), checkpoints)
    expected = torch.stack([inferer(volume, load(network(), [path])) for path in checkpoints]).mean(0)
    assert expected.std() > 0.05
    torch.testing.assert_close(inferer(volume, ensemble), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_logits_of_nnunets_networks_are_averaged_as_nnunet_does():
    """With one channel, a softmax would be 1 everywhere."""
    architecture = json.loads(Path(__file__).with_name("nnunet_parameters.json").read_text())[0]
    kind = getattr(custom.networks, architecture["class"])
    one = kind(in_channels=1, out_channels=1, architecture=architecture["architecture"])
    ensemble = build_ensemble(one, checkpoint=["0.pt", "1.pt"], activation="softmax").eval()
    torch.nn.init.constant_(ensemble.members[1].decoder.seg_layers[-1].bias, 3)
    dims = 3 if architecture["architecture"]["conv_op"].endswith("3d") else 2
    image = torch.rand(1, 1, *[8] * dims)
    first, second = (member(image) for member in ensemble.members)
    assert (second - first).mean() > 1
    torch.testing.assert_close(ensemble(image), (first + second) / 2)


@torch.no_grad()
def test_slices_too():
    torch.manual_seed(0)
    ensemble = Ensemble(torch.nn.Conv2d(1, 2, 3, padding=1), count=2, activation="sigmoid")
    torch.nn.init.normal_(ensemble.members[1].weight)
    volume = torch.rand(1, 1, 4, 32, 32)
    inferer = SliceVolumeInferer(sw_batch_size=2, precision="float32")
    expected = torch.stack([inferer(volume, member) for member in ensemble.members]).mean(0)
    torch.testing.assert_close(inferer(volume, ensemble), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_certain_members_stay_finite(activation):
    ensemble = Ensemble(torch.nn.Identity(), count=2, activation=activation)
    logits = torch.tensor([[200.0], [-200.0]]).reshape(1, 2, 1, 1, 1)
    out = ensemble(logits)
    assert out.isfinite().all()
    mean = out.softmax(1) if activation == "softmax" else out.sigmoid()
    torch.testing.assert_close(mean.flatten(), torch.tensor([1.0, 0.0]))


def test_one_file_is_the_network_itself(checkpoints):
    alone = network()
    assert build_ensemble(alone, checkpoint=checkpoints[0], activation="softmax") is alone
    assert build_ensemble(alone, checkpoint=checkpoints[:1], activation="softmax") is alone
    load(alone, checkpoints[0])
    assert torch.equal(alone.weight, torch.load(checkpoints[0])["weight"])


def test_a_bad_file_among_several_is_named(checkpoints):
    torch.save(network(2).state_dict(), checkpoints[1])
    ensemble = build_ensemble(network(), checkpoint=checkpoints, activation="softmax")
    with pytest.raises(DataError, match=r"1\.pt: found weights of another network"):
        load(ensemble, checkpoints)


def test_ill_option():
    with pytest.raises(ValueError, match="activation is softmax, sigmoid or None"):
        Ensemble(network(), count=2, activation="relu")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_an_activation_logits_are_averaged_also_in_torchscript():
    torch.manual_seed(0)
    ensemble = Ensemble(torch.nn.Conv2d(1, 2, 3), count=2, activation=None)
    torch.nn.init.normal_(ensemble.members[1].weight)
    image = torch.rand(1, 1, 5, 5)
    expected = (ensemble.members[0](image) + ensemble.members[1](image)) / 2
    torch.testing.assert_close(ensemble(image), expected)
    torch.testing.assert_close(torch.jit.script(ensemble)(image), expected)
