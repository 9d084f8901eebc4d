"""A tiny scroll, and a cluster without processes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from .tiny_scroll import SHAPE, SMALL, grouped, write_bundle

MISSING = [name for name in ("zarr", "distributed") if find_spec(name) is None]


class Skipped(pytest.Module):
    """A module that is not even imported."""

    def collect(self):
        pytest.skip(f"no module {MISSING[0]!r}: needs the extra scroll", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return Skipped.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="session")
def volume() -> np.ndarray:
    """Smooth noise, with nothing scanned in one corner, and single dark voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1)
    volume = np.clip(120 + 300 * noise, 1, 255).astype(np.uint8)
    volume[:14, :20, :14] = 0
    volume[15::5, ::7, 16::4] = 0
    return volume


@pytest.fixture(scope="session")
def scroll(volume, tmp_path_factory) -> str:
    """The volume as OME-Zarr 0.5."""
    from custom.scroll.ome_zarr import write_image

    path = tmp_path_factory.mktemp("scroll") / "scroll.zarr"
    write_image(str(path), volume, chunk=8)
    return str(path)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    from custom.scroll.model import Bundle

    return Bundle.read(str(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")))


@pytest.fixture(scope="session")
def scheduler():
    """Address of a cluster of two workers in this process."""
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def predict(scroll, bundle, scheduler, tmp_path):
    """Predict the scroll, with small chunks, to a new place; gives the summary."""
    from custom.scroll.engine import predict_scroll

    number = iter(range(100))

    def run(**options):
        defaults = {
            "input": scroll,
            "output": tmp_path / f"out{next(number)}",
            "bundle": bundle,
            "scheduler": scheduler,
        }
        options = defaults | SMALL | options
        return predict_scroll(**grouped(**options | {"output": str(options["output"])}))

    return run


@pytest.fixture(scope="session")
def undisturbed(scroll, bundle, scheduler, tmp_path_factory) -> Path:
    """The whole prediction, made once."""
    from custom.scroll.engine import predict_scroll

    path = tmp_path_factory.mktemp("undisturbed") / "out"
    predict_scroll(**grouped(input=scroll, output=str(path), bundle=bundle, scheduler=scheduler, **SMALL))
    return path
