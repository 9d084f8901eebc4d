"""Exported bundles in the programs that load bundles: MONAI's own, and what MONAI Label and MONAI Deploy read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.export_bundle import export_bundle

pytestmark = pytest.mark.slow  # one process does all of it

DRIVER = Path(__file__).with_name("consumers_driver.py")
SMALL = {
    "vesuvius_surface_3d": {
        "network_def#init_filters": 8,
        "patch_size": [16, 32, 32],
        "n_folds": 3,
        "num_workers": 0,
    },
    "liver_tumor_2d": {
        "network_def#backbone": "resnet10",
        "network_def#decoder_channels": [8, 8, 8, 8, 8],
        "clean_liver": False,
        "n_folds": 3,
        "num_workers": 0,
    },
}


def write_weights(name, configs, path):
    """Of a small network with running statistics of noise, so that it does not say the same everywhere."""
    parser = ConfigParser(ConfigParser.load_config_file(configs / "inference.json"))
    parser.update({key: value for key, value in SMALL[name].items() if key.startswith("network_def")})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(30):
            network(torch.rand(2, *([1, 32, 16, 16] if name == "vesuvius_surface_3d" else [5, 64, 64])))
        if name == "liver_tumor_2d":  # about as many pixels on one side of the threshold as on the other
            ramp = torch.linspace(0, 1, 64).expand(2, 5, 64, 64)
            network.head[0].bias -= network.eval()(ramp).mean(dim=(0, 2, 3))
    torch.save(network.state_dict(), path)


@pytest.fixture(scope="module")
def used(phantoms, make_folder, request):
    """What each consumer found in each exported bundle; one process for all of them, without a PYTHONPATH."""
    folder = make_folder("consumers")
    cases = []
    for name, bundle in sorted(phantoms.items()):
        write_weights(name, request.config.rootpath / "bundles" / name / "configs", folder / f"{name}.pt")
        small = {**SMALL[name], "dataset_dir": str(bundle.data), "cache_dir": str(folder / "cache" / name)}
        (folder / f"{name}.json").write_text(json.dumps(small))
        export_bundle(
            name,
            output=str(folder / "dist"),
            weights=str(folder / f"{name}.pt"),
            variant=str(folder / f"{name}.json"),
            torchscript=name == "liver_tumor_2d",
        )
        (image,) = (path for path in bundle.images.iterdir() if not path.name.startswith("segmentation"))
        cases.append(f"{folder / 'dist' / name}={image}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", DRIVER, folder / "found.json", *cases],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


def test_monai_loads_network_and_weights(used, name):
    expected = {"vesuvius_surface_3d": "SpaceToDepthSegResNetDS", "liver_tumor_2d": "FlexibleUNetPlusPlus"}
    assert used[name]["monai_load"]["network"] == expected[name]


def test_monai_loads_torchscript_with_its_configuration(used):
    found = used["liver_tumor_2d"]["monai_load"]
    assert found["difference"] < 1e-4
    assert found["extra"] == ["inference.json"]


def test_monai_workflows_have_every_property_and_predict(used, name):
    found = used[name]["monai_workflow"]
    assert found["missing"] == {"train": [], "infer": []}
    assert found["file"] == {"vesuvius_surface_3d": "1500.tif", "liver_tumor_2d": "volume-500.nii.gz"}[name]
    assert len(found["labels"]) > 1


def test_monai_label_predicts_what_monai_does(used, name):
    found = used[name]["monai_label"]
    assert found["loaders"] == 1  # it wraps what is a LoadImaged
    assert found["labels"] == used[name]["monai_workflow"]["labels"]
    shapes = {"vesuvius_surface_3d": [1, 40, 40, 40], "liver_tumor_2d": [1, 48, 48, 12]}
    assert found["shape"] == shapes[name]
    # its clients give these names to the labels 1, 2, ... in their order
    names = {"vesuvius_surface_3d": ["recto surface"], "liver_tumor_2d": ["liver and tumour", "tumour"]}
    assert found["names"] == names[name]


def test_monai_deploy_predicts_what_monai_does(used, name):
    found = used[name]["monai_deploy"]
    assert found["type"] == "image"
    assert found["labels"] == used[name]["monai_workflow"]["labels"]
    assert found["shape"] == used[name]["monai_label"]["shape"]
