"""A component finds the configuration it was made from."""

import copy
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.errors import DataError
from custom.run_config import differences, flatten, is_plain, plain_config, prediction_settings, running_parser


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


def settings(bundle, **overrides):
    path = Path(__file__).parents[1] / "bundles" / bundle / "configs" / "inference.json"
    parser = ConfigParser(ConfigParser.load_config_file(path))
    for key, value in overrides.items():
        parser[key] = value
    return parser.get_parsed_content("settings")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"threshold": 0.9}, "threshold: 0.5, now 0.9"),
        ({"window": [-100, 300]}, "window#1: 200, now 300"),
        ({"region_labels": [1]}, "region_labels#1: 2, now absent"),
        ({"saver#dtype": "float32"}, "saver#dtype: absent, now 'float32'"),
        ({"inferer#amp": None}, "inferer#amp: 'auto', now None"),
        ({"postprocessing#transforms#1#_disabled_": True}, None),
        ({"preprocessing#transforms#3#axcodes": "RAS"}, "preprocessing#transforms#3#axcodes: 'SPL', now 'RAS'"),
        ({"network_def": {"_target_": "torch.nn.Identity"}}, None),
        ({"dataset#transform": {"_target_": "Compose", "transforms": []}}, None),
        ({"anything_new": 1}, "anything_new: absent, now 1"),
    ],
)
def test_what_changes_a_prediction_is_a_setting(overrides, said):
    found = differences(settings("liver_tumor_2d"), settings("liver_tumor_2d", **overrides))
    assert found and said in (None, found)


@pytest.mark.parametrize("bundle", ["liver_tumor_2d", "vesuvius_surface_3d"])
def test_places_and_speed_are_no_settings(bundle):
    speed = {"dataloader#num_workers": 3, "inferer#batch_size": 1, "inferer#progress": False, "device": "cpu"}
    places = dict.fromkeys(("dataset_dir", "output_dir", "checkpoint", "model_dir", "bundle_root"), "/elsewhere")
    tracking = {"tracking_uri": "sqlite:///x.db", "experiment_name": "a"}
    changed = settings(bundle, **speed, **places, **tracking, overwrite=True)
    assert changed == settings(bundle) and json.loads(json.dumps(changed)) == changed


def test_outside_of_a_configuration_there_are_no_settings():
    with pytest.raises(ValueError, match="outside of one there are none"):
        prediction_settings()
