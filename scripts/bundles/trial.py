"""Runs a bundle as a user does, from another folder and without PYTHONPATH."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from scripts.phantoms import write_abdomens, write_scrolls

from custom.networks import OnnxNetwork

from .checks import Source
from .configs import read_json
from .process import last_line, run_python

PROBE = Path(__file__).with_name("probe.py")
TINY = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 1, "n_folds": 2, "num_workers": 0}
TOLERANCE = 1e-4
Result = tuple[str, bool, str]


def try_out(source: Source, foreign: Path) -> Iterator[Result]:
    """Predict, train and evaluate on phantoms, and export the network.

    Args:
        source: the bundle.
        foreign: an empty folder to work in.

    Returns:
        for each check its name, whether it passed, and details.
    """
    data, images = _phantoms(source.metadata.get("data_type"), foreign / "phantoms")
    image = source.metadata["network_data_format"]["inputs"]["image"]
    shape = [2 * int((re.findall(r"\d+", str(size)) or [16])[0]) for size in image["spatial_shape"]]
    calls = _workflows(source, foreign, data, images, shape) | _network(source, foreign)
    done = run_python([str(PROBE), json.dumps(calls)], foreign)
    for line in done.stdout.splitlines():
        yield tuple(json.loads(line))
    if done.returncode:
        yield "running it", False, last_line(done)
    made, wanted = ({path.name for path in folder.glob("*.*")} for folder in (foreign / "found", images))
    wanted = {name for name in wanted if not name.startswith("segmentation")}
    yield "predictions", made >= wanted, f"{len(made & wanted)} of {len(wanted)} images"
    if (foreign / "model.ts").is_file():
        inputs = [torch.rand(1, image["num_channels"], *(size // n for size in shape)) for n in (1, 2)]
        for file in ("model.ts", "model.onnx"):
            yield file, *same_network(source.folder / "models" / file, foreign / "model.ts", inputs)


def _workflows(source: Source, foreign: Path, data: Path, images: Path, shape: list[int]) -> dict[str, Any]:
    """Calls that run the bundle's workflows, with small windows of the given ``shape``."""
    bundle = source.folder.resolve()
    train, inference = (read_json(bundle / "configs" / f"{name}.json") for name in ("train", "inference"))
    sizes = {"patch_size": shape, "slice_size": shape}
    learning = {
        **{key: value for key, value in {**TINY, **sizes}.items() if key in train},
        "dataset_dir": str(data),
        **{name: str(foreign / name) for name in ("cache_dir", "model_dir", "output_dir")},
    }
    predicting = {key: value for key, value in sizes.items() if key in inference}
    predicting |= {"dataset_dir": str(images), "output_dir": str(foreign / "found")}
    evaluating = {"checkpoint": str(bundle / "models" / "model.pt"), "output_dir": str(foreign / "scores")}

    def workflow(kind: str, *configs: str, **options: Any) -> tuple[str, dict[str, Any]]:
        files = [str(bundle / "configs" / f"{name}.json") for name in configs]
        options |= {"config_file": files, "workflow_type": kind, "bundle_root": str(bundle)}
        return "create_workflow", options

    return {
        "inference": workflow("infer", "inference", **predicting),
        "training": workflow("train", "train", **learning),
        "evaluation": workflow("train", "train", "evaluate", **(learning | evaluating)),
    }


def _network(source: Source, foreign: Path) -> dict[str, Any]:
    """Calls that check the network against the metadata, and export it with its weights."""
    bundle = source.folder.resolve()
    files = {"config_file": str(bundle / "configs" / "inference.json"), "meta_file": str(source.meta_file.resolve())}
    export = {"ckpt_file": str(bundle / "models" / "model.pt"), "filepath": str(foreign / "model.ts")}
    return {
        "network in and out": ("verify_net_in_out", {"net_id": "network_def", "any": 32, "device": "cpu", **files}),
        "TorchScript export": ("ckpt_export", {"net_id": "network_def", **export, **files}),
    }


@torch.no_grad()
def same_network(path: Path, exported: Path, inputs: list[torch.Tensor]) -> tuple[bool, str]:
    """Whether an exported network in the bundle gives the same output as a new export of its weights."""
    if not path.is_file():
        return True, f"no models/{path.name}"
    if path.suffix == ".onnx" and find_spec("onnxruntime") is None:
        return True, "not compared: onnxruntime is not installed"
    try:
        network = OnnxNetwork(path=str(path)) if path.suffix == ".onnx" else torch.jit.load(path, "cpu").eval()
        expected = torch.jit.load(exported, "cpu").eval()
        for image in inputs:
            torch.testing.assert_close(network(image), expected(image), rtol=TOLERANCE, atol=TOLERANCE)
    except Exception as error:  # untrusted file
        return False, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    return True, f"answers as the network with model.pt, within {TOLERANCE:g}, at two sizes"


def _phantoms(data_type: str | None, folder: Path) -> tuple[Path, Path]:
    """A dataset in the bundle's layout, and its folder of images without labels."""
    if data_type == "tiff":
        return write_scrolls(folder, n_train=2, n_test=1, size=40), folder / "test_images"
    return write_abdomens(folder, n_train=2, n_test=1, size=64, slices=6), folder / "test"
