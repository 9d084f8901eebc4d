"""A run knows what it is configured to do, and which of it can change its results."""

import copy
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.configuration import Configuration, differences, without_effect
from custom.errors import DataError

BUNDLES = Path(__file__).parents[2] / "bundles"


@without_effect("speed")
class Component:
    """Whose results do not depend on ``speed``."""

    def __init__(self, **arguments):
        self.arguments = arguments


@without_effect()
class Spectator:
    """Without any effect on results."""

    def __init__(self, **_):
        pass


CONFIG = {
    "lr": "$1 / 4",
    "sizes": [1, 2],
    "speed": 1,
    "unread": 2,
    "device": "$torch.device('cpu')",
    "imports": ["$import torch"],
    "inner": {"lr": "@lr"},
    "unused": "$never()",
    "configuration": {"_target_": "custom.configuration.Configuration"},
    "thing": {
        "_target_": Component,
        "_requires_": "@configuration",
        "lr": "@lr",
        "device": "@device",
        "first": "@sizes#0",
        "twice": "$2 * @lr",
        "speed": "@speed",
        "plain": "a",
    },
    "spectator": {"_target_": Spectator, "lr": "@unread"},
    "run": ["$@thing"],
}


def make(**changes):
    parser = ConfigParser(copy.deepcopy(CONFIG) | changes)
    configuration = parser.get_parsed_content("configuration")
    parser.get_parsed_content("thing")
    parser.get_parsed_content("spectator")
    return configuration


def test_knobs_have_their_values_and_the_rest_its_text():
    config = make().plain()
    assert config["lr"] == 0.25
    assert config["device"] == CONFIG["device"] and config["unused"] == CONFIG["unused"]
    assert config["inner"] == {"lr": "@lr"}
    assert config["thing"]["lr"] == "@lr"


def test_outside_of_a_bundle_it_is_empty():
    assert Configuration().plain() == Configuration().effective() == {}


def test_what_reaches_a_component_counts_by_the_name_of_the_knob():
    effective = make().effective()
    assert effective["lr"] == 0.25
    assert effective["sizes#0"] == 1 and "sizes#1" not in effective
    assert effective["thing#twice"] == "$2 * @lr"
    assert effective["thing#plain"] == "a"
    assert {key.partition("#")[0] for key in effective} == {"lr", "sizes", "thing"}
    assert "thing#speed" not in effective


@pytest.mark.parametrize(
    "changes",
    [{"speed": 9}, {"unread": 9}, {"device": "cpu"}, {"sizes": [1, 9]}, {"lr": 0.25}, {"run": ["$@thing, 1"]}],
)
def test_what_has_no_effect_does_not_count(changes):
    assert make(**changes).effective() == make().effective()


@pytest.mark.parametrize("changes", [{"lr": 0.5}, {"sizes": [9, 2]}, {"thing": CONFIG["thing"] | {"plain": "b"}}])
def test_what_has_an_effect_counts(changes):
    assert make(**changes).effective() != make().effective()


def checkpointed(folder, **overrides):
    """A trainer of one step whose checkpoints know the configuration they are made from."""
    parser = ConfigParser(
        {
            "num_workers": 4,
            "steps": "$2 * 3",
            "loss": {"_target_": "torch.nn.Threshold", "threshold": 1.0, "value": "@steps"},
            "configuration": {"_target_": "custom.configuration.Configuration"},
            "checkpoints": {
                "_target_": "custom.handlers.Checkpoints",
                "folder": str(folder),
                "objects": {"loss": "@loss"},
                "resume": "@resume",
                "configuration": "@configuration",
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
    checkpointed(tmp_path, num_workers=0, more=1)
    with pytest.raises(DataError) as refusal:
        checkpointed(tmp_path, steps=7, **{"loss#threshold": 2.0})
    assert str(refusal.value).startswith(f"{tmp_path}/step_00000001.pt: found a run of other settings")
    assert "(loss#threshold: 1.0, now 2.0; steps: 6, now 7)" in str(refusal.value)


def test_a_checkpoint_of_the_first_version_is_told_from_one_of_other_settings(tmp_path):
    checkpointed(tmp_path)
    (file,) = tmp_path.glob("*.pt")
    state = torch.load(file, weights_only=True)
    state["settings"] = {"steps": 6, "number of ranks": 1, "training cases": []}
    torch.save(state, file)
    with pytest.raises(DataError, match=r"found a run of version 0\.1\.0, expected one of this version"):
        checkpointed(tmp_path)


def settings(bundle, **overrides):
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "configs" / "inference.json"))
    for key, value in overrides.items():
        parser[key] = value
    return parser.get_parsed_content("configuration").effective()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"threshold": 0.9}, "threshold: 0.5, now 0.9"),
        ({"window": [-100, 300]}, "window#1: 200, now 300"),
        ({"regions": [[1]]}, "regions: [[1, 2], [2]], now [[1]]"),
        ({"saver#dtype": "float32"}, "saver#dtype: absent, now 'float32'"),
        ({"precision": "float32"}, "precision: 'auto', now 'float32'"),
        ({"postprocessing#transforms#1#_disabled_": True}, None),
        ({"preprocessing#transforms#3#axcodes": "RAS"}, "preprocessing#transforms#3#axcodes: 'SPL', now 'RAS'"),
        ({"network_def": {"_target_": "torch.nn.Identity"}}, None),
        ({"dataset#transform": {"_target_": "Compose", "transforms": []}}, None),
    ],
)
def test_what_changes_a_prediction_is_a_setting(overrides, said):
    found = differences(settings("liver_tumor_2d"), settings("liver_tumor_2d", **overrides))
    assert found and said in (None, found)


@pytest.mark.parametrize("bundle", ["liver_tumor_2d", "vesuvius_surface_3d"])
def test_places_and_speed_are_no_settings(bundle):
    speed = {"dataloader#timeout_s": 3.0, "sw_batch_size": 1, "inferer#progress": False, "device": "cpu"}
    places = dict.fromkeys(("dataset_dir", "output_dir", "checkpoint", "model_dir", "bundle_root"), "/elsewhere")
    tracking = {"tracking_uri": "sqlite:///x.db", "experiment_name": "a"}
    changed = settings(bundle, **speed, **places, **tracking, overwrite=True, trust_values=True)
    assert changed == settings(bundle) and json.loads(json.dumps(changed)) == changed


@pytest.mark.parametrize("added", [[], [{"_target_": "MLFlowHandler", "tracking_uri": "@tracking_uri"}]])
def test_what_tracking_adds_is_no_setting(added):
    """As MONAI's runner does it: a handler at the end of a list, and entries at the top."""
    config = {"handlers": [{"_target_": "StatsHandler", "name": "a"}, *added], "tracking_uri": "sqlite:///x.db"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("custom.configuration.configuration.check_options", lambda *_: None)
        effective = Configuration(ConfigParser(config)).effective()
    assert effective == {"handlers#0#_target_": "StatsHandler", "handlers#0#name": "a"}
