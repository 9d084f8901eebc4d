"""``torch.compile`` of the bundles' networks, traced and run without a compiler, against the network itself."""

import copy

import pytest
import torch
from monai.bundle import ConfigParser

from custom.inferers import AutocastInferer
from custom.networks import checkpoint_activations
from tests.bundles.conftest import REPOSITORY

NETWORKS = {
    ("vesuvius_surface_3d", "train"): {"init_filters": 4, "blocks_down": [1, 1, 1]},
    ("vesuvius_surface_3d", "train", "low_memory"): {"init_filters": 4, "blocks_down": [1, 1, 1, 1]},
    ("vesuvius_surface_3d", "train", "light_unet"): {"features": [4, 4, 4, 4, 4, 4]},
    ("vesuvius_surface_3d", "train", "exp001_full"): {"init_filters": 4, "blocks_down": [1, 1, 1]},
    ("vesuvius_surface_3d", "train", "swin_unetr"): {"feature_size": 12},
    ("liver_tumor_2d", "train"): {"decoder_channels": [8] * 5},
    ("liver_tumor_2d", "train", "v2_unetplusplus"): {"decoder_channels": [8] * 5},
    ("liver_tumor_2d", "train", "v1_baseline"): {"decoder_channels": [8] * 5},
    ("liver_tumor_2d", "train", "v4_resnet_elastic"): {"decoder_channels": [8] * 5},
}
FAST = {("vesuvius_surface_3d", "train")}  # tracing the others takes seconds


def build(bundle, *files):
    configs = REPOSITORY / "bundles" / bundle / "configs"
    parser = ConfigParser(ConfigParser.load_config_files([str(configs / f"{name}.json") for name in files]))
    parser["device"] = torch.device("cpu")
    for name, value in NETWORKS[(bundle, *files)].items():
        parser[f"network_def#{name}"] = value
    torch.manual_seed(0)
    size = {"swin_unetr": 64, "low_memory": 32, "light_unet": 32, "exp001_full": 8, "train": 16}
    image = (
        (2, parser["network_def#in_channels"], 64, 64)
        if bundle.startswith("liver")
        else (1, 1, *(size[files[-1]],) * 3)
    )
    return parser.get_parsed_content("module").train(), torch.rand(image)


def losses(network, image):
    """Of two steps: compiled code is used again in the second."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)  # for stochastic depth
        outputs = AutocastInferer(precision="float32")(image, network)
        loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))
        loss.backward()
        found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.parametrize(
    "names",
    [pytest.param(names, marks=() if names in FAST else pytest.mark.slow) for names in NETWORKS],
    ids="/".join,
)
def test_a_compiled_network_computes_the_same(names):
    network, image = build(*names)
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager" if "low_memory" in names else "eager")
    torch.testing.assert_close(losses(compiled, image), losses(network, image), rtol=1e-4, atol=1e-5)
    for (name, found), expected in zip(compiled.named_parameters(), network.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_recomputing_in_compiled_code_counts_no_batch_twice():
    network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)))
    expected, image = copy.deepcopy(network), torch.rand(2, 1, 6, 6)
    compiled = torch.compile(checkpoint_activations(network, names=["0"]), backend="aot_eager")
    compiled(image).sum().backward()
    expected(image).sum().backward()
    for found, value in zip(network.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(found, value)
