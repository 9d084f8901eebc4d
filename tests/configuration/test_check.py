"""Options that do nothing are refused with the nearest known name; all that has an effect is taken."""

import json
import re
import shlex
from pathlib import Path

import fire
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow

from custom.configuration import check_options, settings_with_effect
from custom.configuration.check import _Checked
from custom.configuration.references import References
from custom.configuration.renamed import RENAMED
from custom.errors import DataError, find_data_error
from custom.handlers.load_weights import different_settings

REPOSITORY = Path(__file__).resolve().parents[2]
LIVER, SURFACE = "liver_tumor_2d", "vesuvius_surface_3d"
COMPONENT = {"_target_": "BasicUNet", "spatial_dims": 2, "out_channels": 2}


def start(bundle, names, *files, **options) -> ConfigWorkflow:
    root = REPOSITORY / "bundles" / bundle
    configs = [str(root / "configs" / f"{name}.json") for name in names]
    options = {"bundle_root": str(root), "logging_file": False} | options
    flow = ConfigWorkflow([*configs, *map(str, files)], **options)
    flow.initialize()
    return flow


def refusal(bundle, names, *files, **options) -> str:
    with pytest.raises(Exception) as caught:
        start(bundle, names, *files, **options)
    error = find_data_error(caught.value)
    assert isinstance(error, DataError), caught.value
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(
    ("bundle", "names", "option", "value", "meant"),
    [
        (LIVER, "train", "epoch", 1, "epochs"),
        (LIVER, "train", "learning_rat", 0.5, "learning_rate"),
        (LIVER, "train", "budget_hour", 0.0001, "budget_hours"),
        (LIVER, "train", "tt", ["horizontal"], "tta"),  # the value of the one that is meant
        (LIVER, "train", "subse", "train", "subset"),  # a text that stands elsewhere too
        (LIVER, "train", "config_fil", "x.json", "config_file"),
        (LIVER, "train", "workflow_typ", "train", "workflow_type"),
        (LIVER, "train", "initialise", ["$print(1)"], "initialize"),
        (LIVER, "train", "import", ["$import math"], "imports"),
        (LIVER, "train", "network_def#backbon", "resnet18", "network_def#backbone"),
        (LIVER, "train", "train#trainr", 1, "train#trainer"),
        (LIVER, "train", "train#trainer#max_epoch", 1, "train#trainer#max_epochs"),
        (LIVER, "train", "train#dataset#shars", 1.0, "train#dataset#shares"),
        (LIVER, "train", "cases#_requirs_", "@seed", "cases#_requires_"),
        (LIVER, "train", "sampling#tumour", 0.5, "sampling#tumor"),
        (LIVER, "train", "sampling", {"tumour": 0.5, "any": 0.5}, "sampling#tumor"),
        (SURFACE, "train", "augmentation#noise#probb", 0.5, "augmentation#noise#prob"),
        (SURFACE, "train", "loss_weights#betty", 0.5, "loss_weights#betti"),
        (LIVER, "inference", "checkpont", "model.pt", "checkpoint"),
        (LIVER, "inference", "treshold", 0.4, "threshold"),
        (LIVER, "inference inference_onnx", "thread", 2, "threads"),
    ],
)
def test_a_mistyped_option_is_refused_with_the_one_that_is_meant(bundle, names, option, value, meant):
    message = refusal(bundle, names.split(), **{option: value})
    assert re.fullmatch(rf"{re.escape(option)}\S*: found .*, expected {re.escape(meant)}", message), message


def test_several_are_refused_in_one_line():
    message = refusal(LIVER, ["train"], epoch=1, learning_rat=0.5)
    assert "epoch: " in message and "learning_rat: " in message


@pytest.mark.parametrize("option", ["val_interval", "accumulation_steps", "batch_size", "sw_batch_size"])
def test_a_count_below_one_is_refused(option):
    assert refusal(SURFACE, ["train"], **{option: 0}) == f"{option}: found 0, expected 1 or more"


@pytest.mark.parametrize("option", ["lr", "key_metric", "_disabled_", "tracking_uri"])
def test_what_resembles_nothing_is_refused_too(option):
    assert refusal(LIVER, ["inference"], **{option: 1}).startswith(f"{option}: found an option that nothing reads")


@pytest.mark.parametrize(
    ("names", "option", "value"),
    [
        ("inference", "batch_size", 4),  # as quickstart.json has it, which is not given
        ("inference", "num_workers", 4),  # as train.json has it
        ("inference quickstart", "epochs", 3),
        ("train", "handlers", []),
    ],
)
def test_an_option_of_another_workflow_is_refused(names, option, value):
    assert refusal(LIVER, names.split(), **{option: value}).startswith(f"{option}: found an option that nothing reads")


@pytest.mark.parametrize("words", [["--context_mm", "None"], ["--context_mm=None", "--budget_hours=None"]])
def test_none_on_the_command_line_is_not_dropped_in_silence(monkeypatch, words):
    """MONAI leaves out what is None: 5 mm would stay in force. The budget is none anyway."""
    monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "training", *words])
    expected = "context_mm: found None, which MONAI ignores, expected '$None', or null in an override file"
    assert refusal(LIVER, ["train"]) == expected
    monkeypatch.setattr("sys.argv", ["--context_mm", "$None"])
    assert start(LIVER, ["train"], context_mm="$None").parser.get_parsed_content("context_mm") is None


def test_a_mistyped_key_in_an_override_file_beside_the_bundles_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text('{"learning_rat": 0.5, "epochs": 3}')
    expected = "learning_rat: found an option that nothing reads, expected learning_rate"
    assert refusal(LIVER, ["train"], tmp_path / "mine.json") == expected
    for name in ("train", "inference"):
        (tmp_path / f"{name}.json").write_text((REPOSITORY / f"bundles/{LIVER}/configs/{name}.json").read_text())
    with pytest.raises(Exception) as caught:
        ConfigWorkflow([str(tmp_path / name) for name in ("train.json", "mine.json")], logging_file=False).initialize()
    assert str(find_data_error(caught.value)) == expected


@pytest.mark.parametrize(
    ("bundle", "options"),
    [
        (LIVER, {"epochs": 3, "network_def#decoder_channels": [8] * 5, "optimizer#betas": [0.9, 0.99]}),
        (LIVER, {"my_rate": 0.5, "learning_rate": "@my_rate"}),
        (LIVER, {"my_rate": 0.5, "learning_rate": "$@my_rate / 2"}),
        (LIVER, {"my_rate": 0.5, "learning_rate": "%my_rate"}),
        (LIVER, {"mine": {"rates": {"first": 0.5}}, "learning_rate": "@mine#rates#first"}),
        (LIVER, {"mine": {"rates": {"first": 0.5}}, "learning_rate": "$@mine::rates::first"}),
        (LIVER, {"mine": {"rates": {"first": 0.5}}, "learning_rate": "%mine#rates#first"}),
        (LIVER, {"optimizer#weight_decay": "@##learning_rate"}),
        (LIVER, {"my_network": COMPONENT, "network_def": "@my_network"}),
        (LIVER, {"my_network": COMPONENT, "network_def": "%my_network"}),
        (LIVER, {"testing": ["$@validate#evaluator.run()"]}),
        (LIVER, {"testing": "$@validate#evaluator.run()", "run_id": "testing"}),
        (LIVER, {"optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "momentum": 0.9}}),
        (LIVER, {"hypothesis": "wider is better", "_meta_#version": "2"}),
        (SURFACE, {"loss": {"_target_": "custom.losses.MaskedDiceCELoss"}}),
        (SURFACE, {"loss_weights#more": 0.1, "loss#terms#more": {"_target_": "custom.losses.MedialRecallLoss"}}),
    ],
)
def test_what_has_an_effect_is_taken(bundle, options):
    start(bundle, ["train"], **options)


def test_an_option_whose_reader_is_replaced_gets_a_warning(caplog):
    start(LIVER, ["inference"], checkpoint="a.pt")
    assert not caplog.messages
    start(LIVER, ["inference"], checkpoint="a.pt", model_dir="elsewhere", output_dir="out")
    assert caplog.messages == ["model_dir: nothing reads this option in this run"]


def test_the_value_of_an_option_is_of_the_right_kind():
    for option, value, expected in (
        ("epochs", "ten", "a whole number such as 15"),
        ("epochs", True, "a whole number such as 15"),  # --epochs without a value
        ("fold", 1.5, "a whole number such as 0"),
        ("resume", "yes", "True or False"),
        ("resume", "false", "True or False"),
        ("clean_liver", "no", "True or False"),  # used in an expression alone
        ("learning_rate", "high", "a number such as 0.001"),
        ("tta", "horizontal", "a list such as ['horizontal']"),
        ("slice_size", ["a", 3], "a list such as [512, 512]"),
        ("dataset_dir", 2024, "a text such as"),
        ("budget_hours", "8h", "a number (budget_hours of custom.handlers.RunHandlers)"),  # null by default
        ("early_stop_epochs", 1.5, "a whole number (patience of custom.handlers.EarlyStop)"),
        ("sampling#tumor", "much", "a number such as 0.34"),
        ("network_def#in_channels", "one", "a whole number such as 5"),
        ("network_def", "resnet18", "a component such as custom.networks.FlexibleUNetPlusPlus"),
    ):
        message = refusal(LIVER, ["train"], **{option: value})
        assert message.startswith(f"{option}: found {value!r}, expected {expected}"), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused():
    assert refusal(LIVER, ["train"], device="gpu").startswith("device: found 'gpu', expected a device as torch names")
    assert refusal(SURFACE, ["train"], device="cuda:1").startswith("device: found 'cuda:1', but torch finds no GPU")


@pytest.mark.parametrize(
    ("bundle", "options"),
    [
        (LIVER, {"epochs": "$2 + 1", "steps_per_epoch": "@epochs", "max_gradient_norm": None}),
        (LIVER, {"elastic_magnitude": [4, 12], "augmentation#warp#rotate_range": (0.1, 0.2)}),
        (LIVER, {"window": [-99.5, 200], "threshold": [0.5, 0.3], "learning_rate": 1}),
        (LIVER, {"budget_hours": 8, "context_mm": 5, "n_context": 1, "max_cache_gb": 1.5, "resume": 1}),
        (LIVER, {"dataset_dir": Path("x"), "device": "cpu", "precision": "float32", "tta": []}),
        (SURFACE, {"grey_values": [0.0, 1.0], "surface_postprocessing#closing_radius": 1.5, "overlap": 0.5}),
        (SURFACE, {"augmentation#warp#elastic_magnitude": [2, 6], "tta": ["depth", "rotate90"]}),
    ],
)
def test_values_that_can_be_meant_are_taken(bundle, options):
    start(bundle, ["train"], **options)


@pytest.mark.parametrize("bundle", [LIVER, SURFACE])
def test_a_default_says_whether_fractions_are_allowed(bundle):
    """A whole number stands for whole numbers alone, so it is none where the argument's annotation has a float."""
    from custom.configuration.kinds import fits, hints

    for name in ("train", "inference"):
        path = REPOSITORY / "bundles" / bundle / "configs" / f"{name}.json"
        checked = _Checked(ConfigParser(ConfigParser.load_config_file(path)), None)
        for id, component, target in checked._components:
            for key, hint in hints(target).items() if target.__module__.startswith("custom") else ():
                source, value = checked._source(f"{id}::{key}", component.get(key))
                if source in checked.config and type(value) is int:
                    assert not fits(0.5, hint), f"{source}: {value}"


@pytest.mark.parametrize(("option", "name"), [("run_id", "trainin"), ("final_id", "finalise")])
def test_a_run_that_is_not_there_is_named(option, name):
    message = refusal(LIVER, ["train"], **{option: name})
    assert message.startswith(f"{option}: found {name!r}, which is not there, expected ")


def test_from_python_and_before_anything_is_written(tmp_path):
    root = REPOSITORY / "bundles" / LIVER
    folders = {
        "cache_dir": str(tmp_path / "cache"),
        "model_dir": str(tmp_path / "m"),
        "output_dir": str(tmp_path / "o"),
    }
    with pytest.raises(Exception) as caught:
        create_workflow(config_file=str(root / "configs" / "train.json"), bundle_root=str(root), epoch=1, **folders)
    assert str(find_data_error(caught.value)).endswith("expected epochs")
    flow = start(LIVER, ["train"], initialize=[], epoch=1, **folders)  # as an application may set it
    with pytest.raises(Exception) as caught:
        flow.run()
    assert str(find_data_error(caught.value)).endswith("expected epochs")
    assert list(tmp_path.iterdir()) == []


def test_an_application_may_add_keys_of_its_own():
    parser = ConfigParser(ConfigParser.load_config_file(REPOSITORY / f"bundles/{LIVER}/configs/inference.json"))
    parser["bundle_root"] = str(REPOSITORY / "bundles" / LIVER)
    parser["use_click"] = False
    check_options(parser, strict=False)
    with pytest.raises(DataError, match=r"^use_click: found an option that nothing reads, expected a known one"):
        check_options(parser, strict=True)
    parser["treshold"] = 0.4
    with pytest.raises(DataError, match=r"^treshold: found an option that nothing reads, expected threshold$"):
        check_options(parser, strict=False)


def test_every_new_name_of_an_option_is_there():
    surface, liver = (
        ConfigParser(ConfigParser.load_config_file(REPOSITORY / "bundles" / bundle / "configs" / "train.json"))
        for bundle in (SURFACE, LIVER)
    )
    for old, new in RENAMED.items():
        first = re.match(r"[\w#]+", new)[0]
        assert old not in surface
        assert first == "configs" or "#handlers#" in first or first in surface or first in liver, new


def test_an_old_option_is_refused():
    expected = "window_batch_size: found the name that this option had in version 0.1.0, expected sw_batch_size"
    assert refusal(SURFACE, ["train"], window_batch_size=1) == expected


def combinations():
    for bundle in (LIVER, SURFACE):
        files = {path.stem for path in (REPOSITORY / "bundles" / bundle / "configs").glob("*.json")}
        variants = {n for n in files if not n.startswith(("export", "inference", "metadata", "train", "multi"))}
        for name in sorted(variants - {"probabilities"}):
            yield bundle, ["train", name]
            yield bundle, ["train", name, "evaluate"]
        for name in sorted(variants - {"evaluate"}):
            yield bundle, ["inference", name]
            yield bundle, ["inference", name, "inference_onnx"]
        yield bundle, ["train"]
        yield bundle, ["inference"]
        yield bundle, ["inference", "inference_deploy"]


@pytest.mark.parametrize(("bundle", "names"), combinations(), ids=str)
def test_every_combination_of_the_bundles_files_passes(bundle, names):
    start(bundle, names)


@pytest.mark.parametrize(("bundle", "names"), [c for c in combinations() if c[1][0] == "train"], ids=str)
def test_inference_has_the_settings_of_the_training(bundle, names, tmp_path):
    """With the same override files there is no warning."""
    folder = REPOSITORY / "bundles" / bundle / "configs"

    def effective(first):
        parser = ConfigParser()
        parser.read_config([str(folder / f"{name}.json") for name in [first, *names[1:]] if name != "evaluate"])
        return settings_with_effect(parser)

    (tmp_path / "run.json").write_text(json.dumps({"settings": effective("train")}, default=str))
    assert different_settings(tmp_path / "model.pt", effective("inference")) == ""


@pytest.mark.parametrize("bundle", [LIVER, SURFACE])
@pytest.mark.parametrize(
    "names", ["train multi_gpu_train", "train evaluate multi_gpu_evaluate", "inference multi_gpu_inference"]
)
def test_the_files_for_several_gpus_pass(bundle, names):
    configs = REPOSITORY / "bundles" / bundle / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.json") for name in names.split()])
    check_options(parser, strict=True)
    first = parser["initialize"][0]
    assert first == ConfigParser.load_config_file(configs / "train.json")["initialize"][0]


def documented():
    documents = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")]
    for path in [*documents, *REPOSITORY.glob("bundles/*/docs/*.md")]:
        for command in re.findall(r"-m monai\.bundle run (.*?)(?:`|\n|$)", path.read_text(encoding="utf-8")):
            yield path, command


@pytest.mark.parametrize(("path", "command"), documented(), ids=lambda value: getattr(value, "stem", None))
def test_every_documented_command_passes(path, command):
    words = shlex.split(command, comments=True)
    options, run_id = {}, words.pop(0)
    while words:
        key, _, value = words.pop(0).removeprefix("--").partition("=")
        options[key] = fire.parser.DefaultParseValue(value or words.pop(0))
    files = options.pop("config_file")
    names = [Path(file).stem for file in ([files] if isinstance(files, str) else files)]
    options.pop("tracking", None)
    multi = any(name.startswith("multi") for name in names) or {"my_variant", "nnunet"} & {
        *names
    }  # not in the repository
    bundles = [b for b in (LIVER, SURFACE) if b in path.parts or len(path.relative_to(REPOSITORY).parts) < 3]
    for bundle in () if multi else bundles:
        known = json.loads((REPOSITORY / f"bundles/{bundle}/configs/{names[0]}.json").read_text())
        if all(key.split("#")[0] in known or key in ("checkpoint", "threads", "bundle_root") for key in options):
            flow = start(bundle, names, run_id=run_id, **options | {"bundle_root": f"bundles/{bundle}"})
            if "patch_size" in options:  # the default network's sizes are not those of its variants
                divisors = flow.parser.get_parsed_content("network_def").divisors
                assert not any(size % divisor for size, divisor in zip(options["patch_size"], divisors, strict=True))


def test_references_of_all_forms():
    config = {
        "a": 1,
        "b": "@a",
        "c": {"d": "$@a + @e::f[0]", "g": ["@#0", "@##a", "%h#i"]},
        "mail": "me@a.org",
        "j": {"k": "@j#l", "l": 2},
    }
    references = References(config)
    assert {name for name in ("a", "e", "e::f", "h", "h::i") if references.reach(name)} == {
        *("a", "e", "e::f", "h", "h::i")
    }
    assert references.names("e::f") and not references.names("e")
    assert not references.reach("j") and references.reach("j::l")  # what only the entry itself refers to is not read
    assert not References({"a": 1, "mail": "me@a.org"}).reach("a")
