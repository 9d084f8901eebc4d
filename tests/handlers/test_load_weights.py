"""Weights load whole or are refused by name."""

import json
import pickle
from types import SimpleNamespace

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
        ({"window#0": -100, "threshold": 0.5}, None),  # a threshold may be another one
        ({"window#0": -500}, "trained with other settings (window#0: -100, now -500): results may be wrong"),
        (
            {"subset": "validation"},
            "trained on cases that are evaluated (1 of 2 cases, among them b): scores are too high",
        ),
        ({"subset": "all"}, None),
        ({}, None),
    ],
)
def test_other_settings_than_in_training_give_a_warning(tmp_path, caplog, settings, message):
    network = torch.nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    record = {"settings": {"window#0": -100, "threshold": 0.4}, "cases": {"training": [{"id": "b"}, {"id": "c"}]}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    engine = Engine(lambda *_: None)
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=[{"id": "a"}, {"id": "b"}]))
    handler = LoadWeights(path=str(tmp_path / "model.pt"), network=network, configuration=Settings(**settings))
    handler.attach(engine)
    engine.run([0])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("custom")]
    assert len(said) == (message is not None) and all(f"model.pt: {message}" in line for line in said)


@pytest.mark.parametrize("record", ["", "[]", "{}"])
def test_a_damaged_record_of_the_training_is_no_obstacle(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    assert different_settings(tmp_path / "model.pt", {"window#0": 0}) == ""
