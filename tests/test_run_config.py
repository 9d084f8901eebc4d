"""A component finds the configuration it was made from."""

import copy

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.errors import DataError
from custom.run_config import flatten, is_plain, plain_config, running_parser


class Component:
    """Remembers the parser that made it."""

    def __init__(self, **_):
        self.parser = running_parser()


CONFIG = {
    "lr": "$1 / 4",
    "sizes": [1, 2],
    "device": "$torch.device('cpu')",
    "imports": ["$import torch"],
    "inner": {"lr": "@lr"},
    "unused": "$never()",
    "thing": {"_target_": Component, "lr": "@lr", "device": "@device", "sizes": "@sizes"},
}


@pytest.fixture
def parser():
    return ConfigParser(copy.deepcopy(CONFIG))


def test_the_parser_that_is_making_it(parser):
    assert parser.get_parsed_content("thing").parser is parser


def test_none_outside_of_a_bundle():
    assert Component().parser is None and plain_config(None) == {}


def test_knobs_have_their_values_and_the_rest_its_text(parser):
    parser.get_parsed_content("thing")
    config = plain_config(parser)
    assert config["lr"] == 0.25
    assert config["device"] == CONFIG["device"] and config["unused"] == CONFIG["unused"]
    assert config["inner"] == {"lr": "@lr"}
    assert config["thing"]["lr"] == "@lr"


def test_leaves_by_their_ids():
    config = {"a": 1, "b": {"c": [2, {"d": None}], "e": {}}, "f": []}
    assert flatten(config) == {"a": 1, "b#c#0": 2, "b#c#1#d": None, "b#e": {}, "f": []}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, True),
        ([1, "a", {"b": 0.5}], True),
        ((1, 2), False),
        (torch.device("cpu"), False),
        ({1: 2}, False),
        (torch.float32, False),
    ],
)
def test_what_json_holds(value, plain):
    assert is_plain(value) is plain


def checkpointed(folder, **overrides):
    """A trainer of one step whose checkpoints know the configuration they are made from."""
    parser = ConfigParser(
        {
            "learning_rate": 0.1,
            "num_workers": 4,
            "steps": "$2 * 3",
            "loss": {"_target_": "torch.nn.Threshold", "threshold": 1.0, "value": "@steps"},
            "checkpoints": {
                "_target_": "custom.handlers.Checkpoints",
                "folder": str(folder),
                "objects": {"loss": "@loss"},
                "resume": "@resume",
            },
            "resume": True,
        }
    )
    for key, value in overrides.items():
        parser[key] = value
    engine = Engine(lambda *_: None)
    parser.get_parsed_content("checkpoints").attach(engine)
    engine.run([0], max_epochs=1)


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    checkpointed(tmp_path)
    checkpointed(tmp_path, num_workers=0)
    with pytest.raises(DataError) as refusal:
        checkpointed(tmp_path, learning_rate=0.2, **{"loss#threshold": 2.0}, more=1)
    assert str(refusal.value).startswith(f"{tmp_path}/step_00000001.pt: found a run of other settings")
    assert "(learning_rate: 0.1, now 0.2; loss#threshold: 1.0, now 2.0; more: absent, now 1)" in str(refusal.value)


def test_what_an_expression_gave_counts(tmp_path):
    checkpointed(tmp_path)
    with pytest.raises(DataError, match=r"\(steps: 6, now 7\)"):
        checkpointed(tmp_path, steps=7)
