"""A GPU gives what the CPU gives in float32, within rounding: losses, networks and inferers of both bundles."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.benchmarks.losses import example

from custom.inferers import AutocastInferer, SliceVolumeInferer, SlidingWindow
from custom.networks import checkpoint_activations

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
DEVICE = "cuda"
LIVER_LOSSES = ["train", *sorted(path.stem for path in (BUNDLES / LIVER / "configs").glob("loss_*.json"))]
SHAPES = {SURFACE: (1, 1, 16, 32, 32), LIVER: (1, 1, 64, 64)}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """Convolutions without TF32, whose products have 10 bits; matrix products use it only when asked to."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def config(bundle: str, *names: str) -> ConfigParser:
    files = [str(BUNDLES / bundle / "configs" / f"{name}.json") for name in names]
    return ConfigParser(ConfigParser.load_config_files(files))


def network(bundle: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return config(bundle, "train").get_parsed_content("network_def").eval()


def assert_alike(work: Callable[[str], Sequence[torch.Tensor]], tolerance: float) -> None:
    """The same on both, but for a share of the largest value."""
    for found, expected in zip(work(DEVICE), work("cpu"), strict=True):
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(found.detach().float().cpu(), expected.detach(), rtol=0, atol=tolerance * largest)


def with_gradient(loss: torch.nn.Module, logits: list[torch.Tensor], target: torch.Tensor) -> Callable:
    def work(device: str) -> list[torch.Tensor]:
        inputs = [scale.to(device).requires_grad_() for scale in logits]
        value = deepcopy(loss).to(device)(inputs if len(inputs) > 1 else inputs[0], target.to(device))
        return [value, *torch.autograd.grad(value, inputs)]

    return work


def test_the_surfaces_losses_and_their_gradients():
    logits, target = (torch.from_numpy(array) for array in example((2, 24, 48, 48)))
    loss = config(SURFACE, "train").get_parsed_content("loss")
    loss.terms.pop("betti")  # computed on the CPU in any case
    loss.weights.pop("betti")
    for term in loss.terms.values():
        assert_alike(with_gradient(term, [logits], target), 1e-3)
    scales = [logits, *(logits[:, :, ::n, ::n, ::n].contiguous() for n in (2, 4))]
    assert_alike(with_gradient(loss, scales, target), 1e-3)


@pytest.mark.parametrize("name", LIVER_LOSSES)
def test_the_livers_losses_and_their_gradients(name):
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 2, 128, 128, generator=random)
    target = (torch.rand(2, 2, 128, 128, generator=random) > 0.8).float()
    loss = config(LIVER, *dict.fromkeys(["train", name])).get_parsed_content("loss")
    assert_alike(with_gradient(loss, [logits], target), 1e-3)


@pytest.mark.parametrize(("bundle", "levels"), [(SURFACE, False), (SURFACE, True), (LIVER, False)])
def test_networks_and_their_gradients(bundle, levels):
    """With activations that are recomputed, too."""
    names = config(SURFACE, "train", "low_memory")["module#names"] if levels else ()
    image, original = torch.randn(SHAPES[bundle], generator=torch.Generator().manual_seed(0)), network(bundle)

    def work(device: str) -> list[torch.Tensor]:
        copied = checkpoint_activations(deepcopy(original).to(device), names=names)
        output = copied(image.to(device))
        output.square().mean().backward()
        gradients = [parameter.grad for parameter in copied.parameters() if parameter.grad is not None]
        return [output, gradients[0], gradients[-1]]

    assert_alike(work, 2e-3)


@pytest.mark.parametrize("bundle", SHAPES)
def test_probabilities_in_bfloat16(bundle):
    image, original = torch.randn(SHAPES[bundle], generator=torch.Generator().manual_seed(0)), network(bundle)

    def work(device: str) -> list[torch.Tensor]:
        inferer = AutocastInferer(precision="float32" if device == "cpu" else "bfloat16")
        with torch.no_grad():
            return [inferer(image.to(device), deepcopy(original).to(device)).float().sigmoid()]

    assert_alike(work, 0.05)


@pytest.mark.parametrize("bundle", SHAPES)
def test_inferers(bundle):
    volume, original = torch.randn(1, 1, 18, 40, 34, generator=torch.Generator().manual_seed(0)), network(bundle)
    inferer = SliceVolumeInferer(sw_batch_size=8, divisor=32, tta=["horizontal"])
    if bundle == SURFACE:
        windows = {
            "roi_size": (16, 32, 32),
            "overlap": (0.5, 0.25, 0.25),
            "sw_batch_size": 2,
            "tta": ["depth", "vertical", "horizontal"],
        }
        inferer = SlidingWindow(**windows, activation="softmax", channels=[1])
    assert_alike(lambda device: [inferer(volume.to(device), deepcopy(original).to(device))], 1e-3)
