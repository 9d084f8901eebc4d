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


def try_out(source: Source, foreign: Path) -> Iterator[tuple[str, bool, str]]:
    """Predict, train and evaluate on phantoms, and compare the forms of the network.

    Args:
        source: the bundle.
        foreign: an empty folder to do it in.

    Returns:
        the name of each check, whether it passed, and what was found.
    """
    data, images = _phantoms(source.config("train")["train#volumes#modality"], foreign / "phantoms")
    workflows = _workflows(source, foreign, data, images)
    done = run_python([str(PROBE), str(source.folder.resolve()), json.dumps(workflows)], foreign)
    for line in done.stdout.splitlines():
        name, passed, found = json.loads(line)
        yield name, passed, found
    if done.returncode:
        yield "running it", False, last_line(done)
    made, wanted = ({path.name for path in folder.glob("*.*")} for folder in (foreign / "found", images))
    wanted = {name for name in wanted if not name.startswith("segmentation")}
    yield "predictions", made >= wanted, f"{len(made & wanted)} of {len(wanted)} images"


def _workflows(source: Source, foreign: Path, data: Path, images: Path) -> dict[str, dict[str, Any]]:
    """Arguments of the runner, with the smallest sizes that the metadata allow, times two."""
    bundle, train, inference = source.folder.resolve(), source.config("train"), source.config("inference")
    shape = _get_fake_spatial_shape(source.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"], n=2)
    sizes = {"patch_size": list(shape), "stride": [axis // 2 for axis in shape], "slice_size": list(shape)}
    learning = {
        **{key: value for key, value in {**TINY, **sizes}.items() if key in train},
        "dataset_dir": str(data),
        **{name: str(foreign / name) for name in ("cache_dir", "model_dir", "output_dir")},
    }
    predicting = {key: value for key, value in sizes.items() if key in inference}

    def arguments(*configs: str, **options: Any) -> dict[str, Any]:
        files = [str(bundle / "configs" / f"{name}.json") for name in configs]
        return {"config_file": files, "bundle_root": str(bundle), **options}

    weights = str(bundle / "models" / "model.pt")
    scores, found = str(foreign / "scores"), str(foreign / "found")
    return {
        "inference": arguments("inference", **predicting, dataset_dir=str(images), output_dir=found),
        "training": arguments("train", **learning),
        "evaluation": arguments("train", "evaluate", **{**learning, "checkpoint": weights, "output_dir": scores}),
    }


def _phantoms(modality: str, folder: Path) -> tuple[Path, Path]:
    """A dataset in the bundle's layout, and its folder of images without labels."""
    if modality == "scroll":
        return write_scrolls(folder, n_train=2, n_test=1, size=40), folder / "test_images"
    return write_abdomens(folder, n_train=2, n_test=1, size=64, slices=6), folder / "test"
