"""Whole scrolls on Dask, with a small network in workers of one thread each.

Workers are started, and have loaded the network, before the clock starts. Decides that the hours of a plan go by voxels
and workers, and that the memory of a worker goes by the block alone.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from custom.data.phantoms import scroll_phantom

from .measure import SURFACE, Row, attempt, by, not_measured, read_config, show_seconds

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = {"_target_": "SegResNetDS", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "norm": "INSTANCE"}
CONVOLUTION = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
"""A network that takes next to no time and memory."""


@dataclass(frozen=True)
class Sizes:
    """How much work is measured; the tests do less of it."""

    filters: int = 8
    roi: tuple[int, int, int] = (32, 48, 48)
    stride: tuple[int, int, int] = (16, 36, 36)
    width: int = 96
    depths: tuple[int, int] = (128, 512)
    memory: int = 128
    """Edge of the smaller volume whose memory is measured."""
    shard: int = 32
    chunk: int = 32


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Time and memory. All on the CPU."""
    try:
        import distributed
        import zarr
    except ModuleNotFoundError as error:
        return [not_measured("whole scrolls", f"no module {error.name!r}: requirements-scroll.txt")]
    logging.getLogger("distributed").setLevel(logging.ERROR)
    del distributed, zarr
    with TemporaryDirectory(prefix="benchmark-scrolls-") as name:
        scrolls = Scrolls(Path(name), sizes)
        return attempt(
            [
                ("time by voxels", lambda: linear(scrolls)),
                ("two workers", lambda: two_workers(scrolls)),
                ("memory", lambda: memory(scrolls)),
            ]
        )


def linear(scrolls: "Scrolls") -> list[Row]:
    """One worker, one block: a scroll and a longer one."""
    short, long = ((depth, scrolls.sizes.width, scrolls.sizes.width) for depth in scrolls.sizes.depths)
    with scrolls.cluster(1):
        each = [scrolls.predict(shape, block=long)["seconds"] / prod(shape) for shape in (long, short)]
    shown = [f"{1e6 * seconds:.3g} s" for seconds in each]
    what = f"{by(long)}: time for a million voxels"
    return [Row(what, shown[0], f"{shown[1]} ({by(short)})", each[0] / each[1], "<= 1.2")]


def two_workers(scrolls: "Scrolls") -> list[Row]:
    """The same two blocks on two workers and on one."""
    depth, width = 2 * scrolls.sizes.depths[0], scrolls.sizes.width
    shape, half = (depth, width, width), (depth // 2, width, width)
    found: dict[int, list[dict[str, Any]]] = {2: [], 1: []}
    for workers in (2, 1) * 2:  # the faster of two runs each: other work on the machine hits both workers at once
        with scrolls.cluster(workers):
            found[workers].append(scrolls.predict(shape, block=half))
    two, one = (min(summary["seconds"] for summary in found[workers]) for workers in (2, 1))
    return [Row(f"two workers, {by(shape)}", show_seconds(two), f"{show_seconds(one)} (one)", one / two, ">= 1.7")]


def memory(scrolls: "Scrolls") -> list[Row]:
    """Largest resident memory of a worker, for a volume and one of eight times its voxels, in blocks of one size."""
    peaks, edge = [], scrolls.sizes.memory
    for length in (2 * edge, edge):
        with scrolls.cluster(1):
            summary = scrolls.predict((length,) * 3, block=(edge,) * 3, network=CONVOLUTION)
        peaks.append(summary["peak_memory_of_a_worker"])
    shown = [f"{peak / 2**20:.0f} MiB" for peak in peaks]
    what = f"peak memory of a worker for {by((2 * edge,) * 3)}"
    return [Row(what, shown[0], f"{shown[1]} ({by((edge,) * 3)})", peaks[0] / peaks[1], "<= 1.1")]


class Scrolls:
    """Makes scrolls, clusters and predictions in a folder."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes
        self.address: str | None = None
        self.count = 0
        self.cube, _ = scroll_phantom(seed=0, index=0, size=max(64, sizes.width), ignore=0.0)

    @contextmanager
    def cluster(self, workers: int) -> Iterator[None]:
        """Workers that have loaded everything."""
        from dask.distributed import LocalCluster

        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
        with LocalCluster(n_workers=workers, env={"PYTHONPATH": str(REPOSITORY)}, **options) as cluster:
            self.address = cluster.scheduler_address
            shard = self.sizes.shard
            self.predict((4 * workers * shard, shard, shard), block=(shard,) * 3)
            yield

    def predict(
        self, shape: Sequence[int], *, block: Sequence[int], network: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Predict a scroll of this shape with the workers, in blocks of no less than ``block``; gives the summary."""
        from custom.scroll.engine import predict_scroll
        from custom.scroll.ome_zarr import write_image

        self.count += 1
        scroll, output = (str(self.folder / f"{kind}{self.count}") for kind in ("scroll", "output"))
        write_image(scroll, self.volume(shape), chunk=self.sizes.chunk)
        options = {"chunk": self.sizes.chunk, "shard": self.sizes.shard, "scheduler": self.address, "threads": 1}
        bundle = self.bundle(network or self.surface)
        whole = tuple(-(-length // self.sizes.shard) * self.sizes.shard for length in block)
        return predict_scroll(input=scroll, output=output, bundle=bundle, block=whole, **options)

    @property
    def surface(self) -> dict[str, Any]:
        """A small network of the bundle's kind."""
        return NETWORK | {"init_filters": self.sizes.filters, "blocks_down": [1, 2, 2, 4], "dsdepth": 1}

    def bundle(self, network: dict[str, Any]) -> Any:
        """The surface bundle with another network, that has learnt nothing, and smaller windows."""
        from custom.scroll.model import Bundle

        config = read_config(SURFACE, "inference").get()
        config |= {"network_def": network, "patch_size": self.sizes.roi, "stride": self.sizes.stride}
        torch.manual_seed(0)
        state = ConfigParser(dict(config)).get_parsed_content("network_def").state_dict()
        path = self.folder / f"{network['_target_']}.pt"
        torch.save(state, path)
        return Bundle(json.dumps(config), (str(path),), "", "0")

    def volume(self, shape: Sequence[int]) -> np.ndarray:
        """Uint8 without a voxel that counts as not scanned."""
        times = [-(-length // len(self.cube)) for length in shape]
        return np.maximum(np.tile(self.cube, times)[tuple(map(slice, shape))], 1)
