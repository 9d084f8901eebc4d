"""A tiny bundle, a tiny scroll, and a cluster without processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip("zarr", minversion="3", reason="requirements-scroll.txt needs Python 3.11")
pytest.importorskip("distributed")

from dask.distributed import LocalCluster

from custom.scroll.engine import predict_scroll
from custom.scroll.model import Bundle
from custom.scroll.ome_zarr import write_image

ROI, STRIDE = (8, 12, 12), (4, 9, 9)
SHAPE = (28, 32, 26)
SMALL = {"chunk": 8, "shard": 16}
CONFIG = {
    "bundle_root": ".",
    "checkpoint": "$@bundle_root + '/models/model.pt'",
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
        ],
    },
    "inferer": {
        "_target_": "custom.inferers.SlidingWindow",
        "roi_size": ROI,
        "stride": STRIDE,
        "activation": "softmax",
        "amp": None,
    },
}


def write_bundle(folder: Path, **changes) -> Path:
    """A bundle's folder: one convolution that tells where its window ends."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    network.weight.data *= 8
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG | changes))
    (folder / "configs" / "metadata.json").write_text('{"version": "1.2.3"}')
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def volume() -> np.ndarray:
    """Smooth noise, with nothing scanned in one corner."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1)
    volume = np.clip(120 + 300 * noise, 1, 255).astype(np.uint8)
    volume[:14, :20, :14] = 0
    return volume


@pytest.fixture(scope="session")
def scroll(volume, tmp_path_factory) -> str:
    """The volume as OME-Zarr 0.5."""
    path = tmp_path_factory.mktemp("scroll") / "scroll.zarr"
    write_image(str(path), volume, chunk=8, scale=7.91)
    return str(path)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.read(str(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")))


@pytest.fixture(scope="session")
def scheduler():
    """Address of a cluster of two workers in this process."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def predict(scroll, bundle, scheduler, tmp_path):
    """Predict the scroll, with small chunks, to a new place; gives the summary."""
    number = iter(range(100))

    def run(**options):
        defaults = {
            "input": scroll,
            "output": tmp_path / f"out{next(number)}",
            "bundle": bundle,
            "scheduler": scheduler,
        }
        options = defaults | SMALL | options
        return predict_scroll(**options | {"output": str(options["output"])})

    return run


@pytest.fixture(scope="session")
def undisturbed(scroll, bundle, scheduler, tmp_path_factory) -> Path:
    """The whole prediction, made once."""
    path = tmp_path_factory.mktemp("undisturbed") / "out"
    predict_scroll(input=scroll, output=str(path), bundle=bundle, scheduler=scheduler, **SMALL)
    return path
