"""Whole scrolls on Dask, with a small network in workers of one thread each.

Workers are started, and have loaded the network, before the clock starts.
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
from custom.ops.windows import WindowGrid

from .measure import Row, attempt, not_measured, once, show_seconds

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "bundles" / "vesuvius_surface_3d" / "configs" / "inference.json"
SCROLL = (14376, 7888, 8096)
"""Voxels of a public scroll of 918 GB, in chunks of 128^3."""
WORKERS, WORKER_BYTES = 8, 16e9
"""For the plan of that scroll; what a worker may use."""
SURFACE = {"_target_": "SegResNetDS", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "norm": "INSTANCE"}
CONVOLUTION = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
"""A network that takes next to no time and memory."""


@dataclass(frozen=True)
class Sizes:
    """How much work is measured; the tests do less of it."""

    filters: int = 8
    roi: tuple[int, int, int] = (32, 48, 48)
    stride: tuple[int, int, int] = (16, 36, 36)
    width: int = 96
    depths: tuple[int, int, int] = (128, 256, 512)
    memory: int = 128
    """Edge of the smaller volume whose memory is measured."""
    shard: int = 32
    chunk: int = 32


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """The plan of a real scroll; time, reads and memory on small ones. All on the CPU."""
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
                ("plan", plan),
                ("time by voxels", lambda: linear(scrolls)),
                ("two workers", lambda: two_workers(scrolls)),
                ("memory", lambda: memory(scrolls)),
            ]
        )


def plan() -> list[Row]:
    """What would be read of a real scroll, with the bundle's windows and blocks by default."""
    from custom.scroll.blocks import CHUNK
    from custom.scroll.costs import fit, make_plan

    config = ConfigParser.load_config_file(CONFIG)
    grid = WindowGrid(SCROLL, tuple(config["patch_size"]), tuple(config["stride"]))
    found = fit(make_plan(grid, (CHUNK,) * 3), workers=WORKERS, memory=WORKER_BYTES)
    what = f"planned reads of a scroll of {_by(SCROLL)} ({WORKERS} workers of {WORKER_BYTES / 1e9:.0f} GB)"
    return [Row(what, f"{found.reads:.3f} times, in blocks of {_by(found.block)}", "once", found.reads, "<= 1.35")]


def linear(scrolls: "Scrolls") -> list[Row]:
    """One worker, one block: three depths; and the shortest without Dask, OME-Zarr and pyramid."""
    sizes, rows = scrolls.sizes, []
    shapes = [(depth, sizes.width, sizes.width) for depth in sizes.depths]
    with scrolls.cluster(1):
        found = [scrolls.predict(shape, block=shapes[-1])["seconds"] for shape in shapes]
    each = [seconds / prod(shape) for seconds, shape in zip(found, shapes, strict=True)]
    for shape, seconds, share in zip(shapes, found, each, strict=True):
        ours, theirs = (f"{1e6 * value:.3g} s" for value in (share, each[0]))
        what = f"{_by(shape)} voxels in {show_seconds(seconds)}: time for a million"
        rows.append(Row(what, ours, f"{theirs} ({_by(shapes[0])})", share / each[0], "<= 1.2"))
    alone = scrolls.without_dask(shapes[0])
    what = f"{_by(shapes[0])} with Dask, reading, writing and pyramid"
    return [*rows, Row(what, show_seconds(found[0]), f"{show_seconds(alone)} (windows alone)", found[0] / alone, "")]


def two_workers(scrolls: "Scrolls") -> list[Row]:
    """The same two blocks on two workers and on one; and what was read."""
    depth, width = 2 * scrolls.sizes.depths[0], scrolls.sizes.width
    shape, half = (depth, width, width), (depth // 2, width, width)
    found: dict[int, list[dict[str, Any]]] = {2: [], 1: []}
    for workers in (2, 1) * 2:  # the faster of two runs each: other work on the machine hits both workers at once
        with scrolls.cluster(workers):
            found[workers].append(scrolls.predict(shape, block=half))
    two, one = (min(summary["seconds"] for summary in found[workers]) for workers in (2, 1))
    fetched, planned = found[2][0]["chunks_fetched"], found[2][0]["planned"]["chunks"]
    return [
        Row(f"two workers, {_by(shape)}", show_seconds(two), f"{show_seconds(one)} (one)", one / two, ">= 1.7"),
        Row("chunks fetched", f"{fetched}", f"{planned} (planned)", fetched / planned, "<= 1"),
    ]


def memory(scrolls: "Scrolls") -> list[Row]:
    """Largest resident memory of a worker, for a volume and one of eight times its voxels, in blocks of one size."""
    peaks, edge = [], scrolls.sizes.memory
    for length in (2 * edge, edge):
        with scrolls.cluster(1):
            summary = scrolls.predict((length,) * 3, block=(edge,) * 3, network=CONVOLUTION)
        peaks.append(summary["peak_memory_of_a_worker"])
    shown = [f"{peak / 2**20:.0f} MiB" for peak in peaks]
    what = f"peak memory of a worker for {_by((2 * edge,) * 3)}"
    return [Row(what, shown[0], f"{shown[1]} ({_by((edge,) * 3)})", peaks[0] / peaks[1], "<= 1.1")]


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

    def without_dask(self, shape: Sequence[int]) -> float:
        """Seconds of the windows in this process, on one thread."""
        bundle = self.bundle(self.surface)
        inferer, network = bundle.windows(), bundle.network()
        volume = torch.from_numpy(self.volume(shape))[None, None] / 127.5 - 1
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            inferer(volume[:, :, : self.sizes.roi[0]], network)
            return once(lambda: inferer(volume, network))
        finally:
            torch.set_num_threads(threads)

    @property
    def surface(self) -> dict[str, Any]:
        """A small network of the bundle's kind."""
        return SURFACE | {"init_filters": self.sizes.filters, "blocks_down": [1, 2, 2, 4], "dsdepth": 1}

    def bundle(self, network: dict[str, Any]) -> Any:
        """The surface bundle with another network, that has learnt nothing, and smaller windows."""
        from custom.scroll.model import Bundle

        config = ConfigParser.load_config_file(CONFIG)
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


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
