"""Whether losses, networks and inferers give on this device what they give on the CPU in float32.

Decides whether a device and its version of torch can be trusted with a run.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from custom.inferers import AutocastInferer, SliceVolumeInferer, SlidingWindow
from custom.networks import checkpoint_activations

from .losses import example
from .measure import BUNDLES, LIVER, SURFACE, Row, attempt, read_config

Work = Callable[[str], Sequence[torch.Tensor]]
"""From the name of a device to what was computed there."""


@dataclass(frozen=True)
class Sizes:
    """Batch and spatial shape of the inputs; tests use smaller ones."""

    patch: tuple[int, ...] = (2, 24, 48, 48)
    slices: tuple[int, ...] = (2, 128, 128)
    volume: tuple[int, ...] = (40, 56, 64)
    options: dict[str, dict[str, Any]] | None = None
    """Settings of the networks by bundle, for smaller ones."""


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Each result on the device beside that on the CPU: the largest difference, as a share of the largest value."""
    parts = [
        ("the surface's losses and their gradients", lambda: _surface_losses(device, sizes)),
        ("the liver's losses and their gradients", lambda: _liver_losses(device, sizes)),
        *((f"network of {name}", lambda name=name: _networks(name, device, sizes)) for name in (SURFACE, LIVER)),
        ("inferers", lambda: _inferers(device, sizes)),
    ]
    with torch.backends.cudnn.flags(
        enabled=True, allow_tf32=False
    ):  # TF32 has 10 bits; matrix products are not in it by default
        return attempt(parts)


def compare(what: str, work: Work, device: str, tolerance: float) -> Row:
    """Compute twice and compare."""
    here, there = ([tensor.detach().float().cpu() for tensor in work(name)] for name in (device, "cpu"))
    share = max(difference(a, b) for a, b in zip(here, there, strict=True))
    return Row(what, _show(here), f"{_show(there)} (CPU)", share, f"<= {tolerance:g}")


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference, as a share of the largest expected value; infinite for a NaN."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    largest = float(expected.abs().max())
    apart = float((found - expected).abs().max())
    return apart / largest if largest else apart


def _show(tensors: Sequence[torch.Tensor]) -> str:
    """The first number: a loss, or the mean of what is larger."""
    return f"{float(tensors[0].mean()):.6g}"


def _surface_losses(device: str, sizes: Sizes) -> list[Row]:
    logits, target = (torch.from_numpy(array) for array in example(sizes.patch))
    whole = read_config(SURFACE, "train").get_parsed_content("loss")
    whole.terms.pop("betti")  # computed on the CPU in any case
    whole.weights.pop("betti")
    rows = [
        compare(f"{name}: value and gradient", _with_gradient(term, [logits], target), device, 1e-3)
        for name, term in whole.terms.items()
    ]
    scales = [logits, *(logits[:, :, ::n, ::n, ::n].contiguous() for n in (2, 4))]
    return [*rows, compare("all terms, three scales", _with_gradient(whole, scales, target), device, 1e-3)]


def _liver_losses(device: str, sizes: Sizes) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    batch, *space = sizes.slices
    logits = 3 * torch.randn(batch, 2, *space, generator=random)
    target = (torch.rand(batch, 2, *space, generator=random) > 0.8).float()
    names = ["train", *sorted(path.stem for path in (BUNDLES / LIVER / "configs").glob("loss_*.json"))]
    losses = {name: read_config(LIVER, *dict.fromkeys(["train", name])).get_parsed_content("loss") for name in names}
    return [
        compare(f"{name}: value and gradient", _with_gradient(loss, [logits], target), device, 1e-3)
        for name, loss in losses.items()
    ]


def _with_gradient(loss: torch.nn.Module, logits: list[torch.Tensor], target: torch.Tensor) -> Work:
    def work(device: str) -> list[torch.Tensor]:
        inputs = [scale.to(device).requires_grad_() for scale in logits]
        value = deepcopy(loss).to(device)(inputs if len(inputs) > 1 else inputs[0], target.to(device))
        return [value, *torch.autograd.grad(value, inputs)]

    return work


def _networks(bundle: str, device: str, sizes: Sizes) -> list[Row]:
    network = _network(bundle, sizes)
    batch, *space = sizes.patch if bundle == SURFACE else sizes.slices
    image = torch.randn(batch, 1, *space, generator=torch.Generator().manual_seed(0))

    def gradients(device: str, names: Sequence[str] = ()) -> list[torch.Tensor]:
        copied = checkpoint_activations(deepcopy(network).to(device), names=names)
        output = copied(image.to(device))
        output.square().mean().backward()
        last = [parameter.grad for parameter in copied.parameters() if parameter.grad is not None]
        return [output, last[0], last[-1]]

    def bf16(device: str) -> list[torch.Tensor]:
        with torch.no_grad():
            inferer = AutocastInferer(precision="bf16" if device != "cpu" else "fp32")
            return [inferer(image.to(device), deepcopy(network).to(device)).float().sigmoid()]

    rows = [
        compare(f"{bundle}: output and gradients", gradients, device, 2e-3),
        compare(f"{bundle}: probabilities in bf16, in float32 on the CPU", bf16, device, 0.05),
    ]
    if bundle == SURFACE:
        names = read_config(SURFACE, "train", "low_memory")["checkpoint_levels"]
        rows.append(
            compare(f"{bundle}: the same with checkpoint_levels", lambda name: gradients(name, names), device, 2e-3)
        )
    return rows


def _inferers(device: str, sizes: Sizes) -> list[Row]:
    volume = torch.randn(1, 1, *sizes.volume, generator=torch.Generator().manual_seed(0))
    surface, liver = _network(SURFACE, sizes), _network(LIVER, sizes)
    windows = SlidingWindow(
        roi_size=(16, 32, 32), stride=(8, 24, 24), batch_size=2, activation="softmax", channels=[1], tta="flips"
    )
    slices = SliceVolumeInferer(batch_size=8, divisor=32, flips=["horizontal"])

    def predict(inferer: Any, network: torch.nn.Module) -> Work:
        return lambda device: [inferer(volume.to(device), deepcopy(network).to(device))]

    return [
        compare("SlidingWindow with flips: probabilities", predict(windows, surface), device, 1e-3),
        compare("SliceVolumeInferer with a mirror image: probabilities", predict(slices, liver), device, 1e-3),
    ]


def _network(bundle: str, sizes: Sizes) -> torch.nn.Module:
    """In evaluation mode, with random weights that are always the same."""
    config = read_config(bundle, "train")
    config["network_def"].update((sizes.options or {}).get(bundle, {}))
    torch.manual_seed(0)
    return config.get_parsed_content("network_def").eval()
