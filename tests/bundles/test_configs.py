"""What the configurations declare exists, fits together and is what the documents say."""

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.name for path in (REPOSITORY / "bundles").iterdir())
OVERRIDES = {"evaluate", "multi_gpu_train", "multi_gpu_evaluate", "quickstart"}


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def workflow(bundle, names, kind, tmp_path, **options):
    small = bundle.inference_options
    if kind == "train":
        small = bundle.options | {"cache_dir": str(tmp_path / "cache")}
    options = {"bundle_root": str(bundle.root), **options}
    return ConfigWorkflow(bundle.configs(*names), workflow_type=kind, **small | options)


def targets(config, prefix=""):
    """Ids of all components below a config, the outermost first."""
    if isinstance(config, dict | list):
        if isinstance(config, dict) and "_target_" in config:
            yield prefix
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from targets(value, f"{prefix}#{key}" if prefix else str(key))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["train"], "train"),
        (["train", "quickstart"], "train"),
        (["train", "evaluate"], "train"),
        (["inference"], "infer"),
        (["inference", "quickstart"], "infer"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_every_component_instantiates(bundle, names, kind, tmp_path):
    small = {} if kind == "train" else {"dataset_dir": str(bundle.images)}
    flow = workflow(bundle, names, kind, tmp_path, **small)
    flow.initialize()
    ids = list(targets(flow.parser.get()))
    assert len(ids) > 15
    for name in ids:
        disabled = flow.parser[name].get("_disabled_", False)
        assert disabled or flow.parser.get_parsed_content(name) is not None, name
    assert flow.check_properties() == []


@pytest.mark.parametrize("files", [["a.pt"], ["a.pt", "b.pt"]])
def test_evaluation_averages_several_networks_as_inference_does(bundle, files, tmp_path):
    members = []
    for names, kind, network in (
        (["train", "evaluate"], "train", "evaluated_network"),
        (["inference"], "infer", "network"),
    ):
        options = {} if kind == "train" else {"dataset_dir": str(bundle.images)}
        flow = workflow(bundle, names, kind, tmp_path, checkpoint=files, **options)
        found = flow.parser.get_parsed_content(network)
        members.append((len(getattr(found, "members", [found])), getattr(found, "activation", None)))
        if kind == "train":
            evaluator = flow.parser.get_parsed_content("validate#evaluator")
            assert evaluator.network is found
    assert members[0] == members[1]
    assert members[0][0] == len(files)


@pytest.mark.parametrize("name", BUNDLES)
def test_override_files_hold_only_what_differs(name):
    configs = REPOSITORY / "bundles" / name / "configs"
    whole = ConfigParser.load_config_file(configs / "train.json")
    for override in OVERRIDES & {path.stem for path in configs.glob("*.json")}:
        for key, value in ConfigParser.load_config_file(configs / f"{override}.json").items():
            assert ConfigParser(whole).get(key) != value, f"{override}.json repeats {key}"


@pytest.mark.parametrize("name", BUNDLES)
def test_every_variant_trains_on_several_gpus(name):
    """What both override would be lost, whichever comes first."""
    configs = REPOSITORY / "bundles" / name / "configs"
    several = set(ConfigParser.load_config_file(configs / "multi_gpu_train.json"))
    apart = {"train", "inference", "metadata", "multi_gpu_train", "multi_gpu_evaluate", "multi_gpu_inference"}
    for path in configs.glob("*.json"):
        if path.stem not in apart and not path.stem.startswith(("export", "inference")):
            assert not several & set(ConfigParser.load_config_file(path)), path.name


@pytest.mark.parametrize("name", BUNDLES)
def test_training_and_inference_see_the_same(name):
    """inference.json is self-contained, so it repeats parts of train.json: word for word."""
    configs = REPOSITORY / "bundles" / name / "configs"
    train = ConfigParser(ConfigParser.load_config_file(configs / "train.json"))
    inference = ConfigParser(ConfigParser.load_config_file(configs / "inference.json"))
    # an activation in place saves memory in inference, but makes copies for the backward pass of the 3-D network
    in_place = {"act": ["relu", {"inplace": True}]} if "act" in train["network_def"] else {}
    assert inference["network_def"] == {**train["network_def"], **in_place}
    assert train["validate#inferer"] == "@inferer"
    assert inference["preprocessing#transforms"][-1] == "@normalize"
    assert inference["postprocessing#transforms"][0] == train["validate#postprocessing#transforms"][0]
    differ = {"dataset_dir", "output_dir", "imports", "cases", "network", "network_def", "run", "initialize"}
    for knob in set(inference.get()) & set(train.get()) - differ:
        assert inference[knob] == train[knob], knob


def test_both_bundles_read_alike():
    first, second = (
        list(json.loads((REPOSITORY / "bundles" / name / "configs" / "train.json").read_text())) for name in BUNDLES
    )
    shared = set(first) & set(second)
    assert [key for key in first if key in shared] == [key for key in second if key in shared]
    assert len(shared) > 25


@pytest.mark.parametrize("name", BUNDLES)
def test_metadata(name):
    jsonschema = pytest.importorskip("jsonschema")
    metadata = json.loads((REPOSITORY / "bundles" / name / "configs" / "metadata.json").read_text())
    schema = json.loads((REPOSITORY / "scripts" / "schemas" / "metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]
    pins = dict(
        line.strip().split("==") for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if "==" in line
    )
    assert metadata["monai_version"] == pins["monai"]
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    for package, version in metadata["required_packages_version"].items():
        assert pins[package] == version, package


@pytest.mark.parametrize("name", BUNDLES)
def test_network_takes_and_gives_what_the_metadata_says(name):
    configs = REPOSITORY / "bundles" / name / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        n=1,
        p=1,
        any=32,
    )


@pytest.mark.parametrize(
    ("names", "parameters", "windows"),
    [
        (["train"], 29.8e6, ((128, 128, 128), (64, 64, 64))),
        (["train", "exp001_full"], 31.1e6, ((72, 136, 136), (36, 102, 102))),
    ],
)
def test_the_surface_networks_size(names, parameters, windows):
    """exp001_full.json has the network and windows of the seed's training log."""
    configs = [f"bundles/vesuvius_surface_3d/configs/{name}.json" for name in names]
    parser = ConfigParser(ConfigParser.load_config_files(configs))
    network = parser.get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.01)
    network.train()
    outputs = network(torch.zeros(1, 1, 16, 32, 32))
    assert [tuple(output.shape[2:]) for output in outputs] == [(16, 32, 32), (8, 16, 16), (4, 8, 8)]
    inferer = parser.get_parsed_content("validate#inferer")
    assert (inferer.roi_size, inferer.stride) == windows


@pytest.mark.parametrize("name", BUNDLES)
def test_a_configuration_is_read_in_one_go(name):
    configs = REPOSITORY / "bundles" / name / "configs"
    for file, lines, size in (("train", 300, 10 * 1024), ("inference", 110, 10 * 1024)):
        text = (configs / f"{file}.json").read_text()
        assert len(text.splitlines()) <= lines and len(text.encode()) <= size


@pytest.mark.parametrize("name", BUNDLES)
def test_every_knob_is_documented(name):
    """Entries before the network, in the tables of the bundle's README."""
    configs = REPOSITORY / "bundles" / name / "configs"
    tables = [line for line in (configs.parent / "docs" / "README.md").read_text().splitlines() if line[:1] == "|"]
    documented = {word for line in tables for word in re.findall(r"`([\w#]+)`", line.split("|")[1])}
    for file in ("train", "inference"):
        keys = list(json.loads((configs / f"{file}.json").read_text()))
        knobs = set(keys[: keys.index("network_def")]) - {"imports", "hypothesis"}
        assert knobs <= documented, sorted(knobs - documented)


@pytest.mark.parametrize("name", BUNDLES)
def test_training_and_inference_scale_grey_values_alike_whatever_their_type(name):
    """The cache has whole numbers, inference floating-point ones; the lower end of uint8 must not wrap."""
    option = "window" if name == "liver_tumor_2d" else "grey_values"
    image = torch.tensor([[5, 200]], dtype=torch.uint8)
    found = []
    for file, given in (("train", image), ("inference", image.float())):
        parser = ConfigParser()
        parser.read_config(REPOSITORY / "bundles" / name / "configs" / f"{file}.json")
        parser[option] = [10, 255]
        found.append(parser.get_parsed_content("normalize")({"image": given})["image"])
    assert torch.equal(*found) and found[0][0, 0] <= found[0][0, 1]
