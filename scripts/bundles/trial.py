"""Runs a bundle as someone does who has nothing else: from a foreign folder, without a PYTHONPATH."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle.scripts import _get_fake_spatial_shape

from custom.data.phantoms import write_abdomens, write_scrolls

from .checks import Source
from .process import last_line, run_python

PROBE = Path(__file__).with_name("probe.py")
TINY = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 1, "n_folds": 2, "num_workers": 0}

Result = tuple[str, bool, str]


def probe_network(source: Source, foreign: Path) -> Iterator[Result]:
    """Sizes, weights and exported forms of the network."""
    done = run_python([str(PROBE), str(source.folder.resolve())], foreign)
    for line in done.stdout.splitlines():
        name, passed, found = json.loads(line)
        yield name, passed, found
    if done.returncode:
        yield "network", False, last_line(done)


def run_workflows(source: Source, foreign: Path) -> Iterator[Result]:
    """Train, evaluate and predict on phantoms, at the smallest size that the metadata allow twice."""
    train = source.config("train")
    shape = _get_fake_spatial_shape(source.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"], n=2)
    data, images = _phantoms(train["train#volumes#modality"], foreign / "phantoms")
    sizes = {
        "patch_size": list(shape),
        "stride": [axis // 2 for axis in shape],
        "slice_size": list(shape),
    }
    options = {key: value for key, value in {**TINY, **sizes}.items() if key in train}
    folders = {name: str(foreign / name) for name in ("cache_dir", "model_dir", "output_dir")}
    own = {"checkpoint": str(source.folder.resolve() / "models" / "model.pt")}
    predicting = {key: value for key, value in sizes.items() if key in source.config("inference")}
    for name, configs, values in (
        ("training", ["train"], {**options, **folders, "dataset_dir": str(data)}),
        (
            "evaluation",
            ["train", "evaluate"],
            {**options, **folders, **own, "dataset_dir": str(data), "output_dir": str(foreign / "scores")},
        ),
        ("inference", ["inference"], {**predicting, "dataset_dir": str(images), "output_dir": str(foreign / "found")}),
    ):
        done = run_python(_command(source.folder.resolve(), configs, values), foreign)
        yield (
            name,
            not done.returncode,
            "on phantoms, from a foreign folder" if not done.returncode else last_line(done),
        )
    made, wanted = ({path.name for path in folder.glob("*")} for folder in (foreign / "found", images))
    wanted = {name for name in wanted if not name.startswith("segmentation")}
    yield "predictions", made >= wanted, f"{len(made & wanted)} of {len(wanted)} images"


def _command(bundle: Path, configs: list[str], options: dict[str, Any]) -> list[str]:
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    options = {"bundle_root": str(bundle), **options}
    return [
        *("-m", "monai.bundle", "run", f"--config_file={files}"),
        *(f"--{key}={value}" for key, value in options.items()),
    ]


def _phantoms(modality: str, folder: Path) -> tuple[Path, Path]:
    """A dataset in the bundle's layout, and its folder of images without labels."""
    if modality == "scroll":
        return write_scrolls(folder, n_train=2, n_test=1, size=40), folder / "test_images"
    return write_abdomens(folder, n_train=2, n_test=1, size=64, slices=6), folder / "test"
