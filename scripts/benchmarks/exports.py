"""Seconds on a CPU of both bundles' networks as they are, as TorchScript and in ONNX Runtime.

Decides which of them is worth exporting for a machine without a GPU, and that inference uses bfloat16 where it can.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle import ckpt_export, onnx_export
from torch import nn

from custom.inferers.common import autocast_to, fast_dtype
from custom.networks import OnnxNetwork

from .measure import BUNDLES, FULL, LIVER, SURFACE, Row, by, interleaved, not_measured, read_config, show_seconds

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sizes:
    """One window of the scroll, one slice of the abdomen; tests use smaller ones."""

    shapes: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {SURFACE: (1, 1, 72, 136, 136), LIVER: (1, 1, 512, 512)}
    )
    overrides: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    repeats: int = 3


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Both networks with random weights, exported by the documented commands."""
    if device != "cpu":
        return [not_measured("exports", "a section for --device cpu")]
    rows = []
    for name, shape in sizes.shapes.items():
        with TemporaryDirectory() as folder:
            rows += _network(name, shape, sizes.overrides.get(name, {}), Path(folder), sizes.repeats)
    return rows


def _network(name: str, shape: tuple[int, ...], overrides: dict[str, Any], folder: Path, repeats: int) -> list[Row]:
    configs = BUNDLES / name / "configs"
    config = read_config(name, "inference", *FULL[name])
    config.update(overrides)
    network = _with_statistics(config.get_parsed_content("network_def"), len(shape) - 2)
    exported = _export(network, configs, overrides, shape, folder)
    image = torch.rand(shape)
    networks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager": network, **exported}
    if fast_dtype(torch.device("cpu")) is not None:
        networks["bfloat16"] = _as_inference_runs_it(config.get_parsed_content("network_def"), network)

    outputs: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def predict(kind: str) -> None:
        outputs[kind] = networks[kind](image)

    taken = interleaved([partial(predict, kind) for kind in networks], repeats=repeats)
    times = dict(zip(networks, taken, strict=True))
    where = f"{name}, {by(shape)}"

    def against_eager(kind: str, what: str) -> Row:
        shown = f"{show_seconds(times['eager'])} (eager, float32)"
        return Row(f"{where}: {what}", show_seconds(times[kind]), shown, times["eager"] / times[kind], "")

    rows = [
        against_eager("TorchScript", "TorchScript, float32"),
        against_eager("ONNX Runtime", "ONNX Runtime, float32"),
    ]
    if "bfloat16" in times:  # where the processor has instructions for it
        rows.append(against_eager("bfloat16", "eager, bfloat16 (precision: auto)"))
    for kind in exported:
        difference = (outputs[kind] - outputs["eager"]).abs().max().item()
        what = f"{where}: largest difference of {kind}'s logits"
        rows.append(Row(what, f"{difference:.1e}", "eager", difference, f"<= {TOLERANCE}"))
    return rows


def _with_statistics(network: nn.Module, spatial_dims: int) -> nn.Module:
    """Return the network after some batches of noise; with initial running statistics all logits are almost zero."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(2, 1, *[64 if spatial_dims == 2 else 16] * spatial_dims))
    return network.eval()


def _export(
    network: nn.Module, configs: Path, overrides: dict[str, Any], shape: tuple[int, ...], folder: Path
) -> dict[str, nn.Module]:
    torch.save(network.state_dict(), folder / "model.pt")
    common = {
        "ckpt_file": str(folder / "model.pt"),
        "config_file": [str(configs / f"{part}.json") for part in ("inference", *FULL[configs.parent.name])],
        "meta_file": str(configs / "metadata.json"),
        **overrides,
    }
    ckpt_export(filepath=str(folder / "model.ts"), **common)
    arguments = folder / "export_onnx.json"
    arguments.write_text(json.dumps(json.loads((configs / "export_onnx.json").read_text()) | common))
    onnx_export(args_file=str(arguments), filepath=str(folder / "model.onnx"), input_shape=list(shape))
    return {
        "TorchScript": torch.jit.load(folder / "model.ts"),
        "ONNX Runtime": OnnxNetwork(path=str(folder / "model.onnx")),
    }


def _as_inference_runs_it(copy: nn.Module, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a copy of the network in the precision and memory format of the inferers."""
    copy.load_state_dict(network.state_dict())
    copy.eval()

    def predict(image: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        with autocast_to("auto", image.device):
            return copy.to(memory_format=layout)(image.to(memory_format=layout)).float()

    return predict
