"""Weights load whole or are refused by name."""

import json
import pickle

import pytest
import torch
from ignite.engine import Engine

from custom.errors import DataError
from custom.handlers import LoadWeights
from custom.handlers.load_weights import different_settings
from custom.networks import Ensemble


def load(path, network):
    engine = Engine(lambda *_: None)
    LoadWeights(path=path, network=network).attach(engine)
    engine.run([0])


def test_loads_every_tensor(tmp_path):
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    load(tmp_path / "model.pt", target)
    assert torch.equal(source.weight, target.weight) and torch.equal(source.bias, target.bias)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def missing(_):
    pass


def damaged(path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])


def other_shape(path):
    torch.save(torch.nn.Linear(2, 4).state_dict(), path)


def one_key_more(path):
    torch.save({**torch.nn.Linear(2, 3).state_dict(), "extra": torch.zeros(1)}, path)


def nested(path):
    torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, path)


def code(path):
    path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (missing, "no such file"),
        (damaged, "an unreadable file"),
        (other_shape, "another network (2 of 2 tensors differ, the first is 'weight')"),
        (one_key_more, "the first is 'extra'"),
        (nested, "other things than tensors"),
        (code, "an unreadable file"),
    ],
)
def test_refusals_name_the_file(tmp_path, capsys, make, found):
    path = tmp_path / "model.pt"
    make(path)
    network = torch.nn.Linear(2, 3)
    before = network.weight.clone()
    with pytest.raises(DataError) as refusal:
        load(path, network)
    assert str(refusal.value).startswith(f"{path}: found ") and found in str(refusal.value)
    assert torch.equal(before, network.weight)
    assert "executed" not in capsys.readouterr().out


def ensemble():
    return Ensemble(torch.nn.Linear(2, 3), count=2, activation="softmax")


@pytest.mark.parametrize(
    ("make", "count", "networks"),
    [(lambda: torch.nn.Linear(2, 3), 2, 1), (lambda: torch.nn.Linear(2, 3), 0, 1), (ensemble, 3, 2), (ensemble, 0, 2)],
)
def test_as_many_files_as_networks(tmp_path, make, count, networks):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    expected = rf"checkpoint: found {count} weights files, expected {networks}, one for each network"
    with pytest.raises(DataError, match=expected):
        load([str(tmp_path / "model.pt")] * count, make())


def test_one_file_may_hold_a_whole_ensemble(tmp_path):
    source, target = ensemble(), ensemble()
    torch.nn.init.ones_(source.members[1].bias)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    load([str(tmp_path / "model.pt")], target)
    assert torch.equal(source.members[1].bias, target.members[1].bias)


class Settings:
    """Stands for a configuration."""

    def __init__(self, **settings):
        self.settings = settings

    def effective(self):
        return self.settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window#0": -100, "fold": 1, "threshold": 0.5}, None),  # a threshold may be another one
        ({"window#0": -500, "fold": 1}, "window#0: -100, now -500"),
        ({"subset": "validation", "fold": 0}, "fold: 1, now 0"),
        ({"subset": "all", "fold": 0}, None),  # of other data
        ({}, None),
    ],
)
def test_other_settings_than_in_training_give_a_warning(tmp_path, caplog, settings, message):
    network = torch.nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    record = {"settings": {"window#0": -100, "fold": 1, "threshold": 0.4, "learning_rate": 0.1}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    engine = Engine(lambda *_: None)
    handler = LoadWeights(path=str(tmp_path / "model.pt"), network=network, configuration=Settings(**settings))
    handler.attach(engine)
    engine.run([0])
    expected = f"model.pt: trained with other settings ({message}): results may be wrong, or scores too high"
    assert (expected in caplog.text) if message else not caplog.text


@pytest.mark.parametrize("record", ["", "[]", "{}"])
def test_a_damaged_record_of_the_training_is_no_obstacle(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    assert different_settings(tmp_path / "model.pt", {"fold": 0}) == ""
