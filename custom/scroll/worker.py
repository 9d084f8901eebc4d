"""A task of a prediction, executed by a Dask worker."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from monai.transforms import ScaleIntensityRanged
from scipy import ndimage

from ..inferers import SlidingWindow
from ..ops.windows import Box
from ..system.memory import peak_bytes
from .blocks import BlockPlan
from .model import Bundle, ScaledWindows, ScrollNetwork
from .ome_zarr import Image, Output, open_image
from .planes import Planes

EMPTY = 0
"""Grey value outside the scanned object."""


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs besides the box of its task."""

    input: str
    """OME-Zarr image, a path or a URL that workers can access."""
    output: str
    """Destination of the prediction, likewise."""
    bundle: Bundle
    plan: BlockPlan
    chunk: int
    """Edge of the output's chunks, in voxels."""
    threshold: float | None
    """Probability above which a mask is 1; None: the output is the probability, 0 to 255."""
    threads: int
    """Windows that a CPU predicts in parallel."""
    batch_size: int | None = None
    """Windows per call of the network on a GPU; None: as in the bundle."""

    def open_output(self) -> Output:
        mask = self.threshold is not None
        return Output(self.output, shape=self.plan.shape, chunk=self.chunk, shard=self.plan.shard, mask=mask)


class Predictor:
    """A network with its sliding window on a device; created once per process.

    A window is computed by one thread on a CPU, so that the result does not depend on the number of cores.
    """

    def __init__(self, bundle: Bundle, device: torch.device, threads: int, batch_size: int | None) -> None:
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False  # might choose different algorithms
        torch.backends.cudnn.deterministic = True
        self.inferer: SlidingWindow = bundle.windows()
        self.inferer.empty_value = EMPTY
        self.inferer.progress = False
        self.inferer.concurrency = threads
        self.inferer.sw_batch_size = 1 if device.type == "cpu" else batch_size or self.inferer.sw_batch_size
        self.network = bundle.network().to(device)
        self.intensity = bundle.intensity()


_loading, _load = threading.Lock(), lru_cache(maxsize=1)(Predictor)


@dataclass
class Result:
    """Statistics of a task.

    ``voxels`` are those written; ``memory`` is the process's peak in bytes, ``largest`` the largest grey
    value, ``missing`` the keys of chunks that were requested and do not exist.
    """

    voxels: int = 0
    windows: int = 0
    predicted: int = 0
    fetched: int = 0
    bytes: int = 0
    memory: int = 0
    largest: int = 0
    missing: frozenset[str] = frozenset()


def predict_block(job: Job, box: Box, device: str, progress: Callable[[int], None]) -> Result:
    """Predict the missing shards of a block, in voxels of the output.

    ``progress`` is called every few planes with the number of predicted voxels.
    """
    result, output = Result(), job.open_output()
    done = output.done(0)
    missing = [position for position in output.positions(box) if position not in done]
    if missing:
        image = open_image(job.input)
        with _loading:
            predictor = _load(job.bundle, torch.device(device), job.threads, job.batch_size)
        for span in _spans(missing, box, output.shard):
            run = _ShardLayers(job, image, output, (span, *box[1:]), missing)
            network = ScrollNetwork(predictor.network, predictor.inferer)
            for voxels in run.predict(predictor.inferer, network, predictor.intensity):
                result.voxels += voxels
                progress(result.voxels)
            result.windows += run.part.count
            result.predicted += sum(network.counts)
            result.largest = max(result.largest, run.largest)
        result.fetched, result.bytes = image.store.fetched, image.store.bytes
        result.missing = frozenset(image.store.missing)
    result.memory = peak_bytes()
    return result


class _ShardLayers:
    """Predicts consecutive layers of shards from the first plane to the last."""

    def __init__(self, job: Job, image: Image, output: Output, box: Box, missing: list[tuple[int, ...]]) -> None:
        self.image = image
        self.output = output
        self.box = box
        self.missing = set(missing)
        self.threshold = job.threshold
        self.part = job.plan.part(box)
        self.step = job.plan.grid.stride[0]
        self.overlaps = [step < length for step, length in zip(job.plan.grid.stride, job.plan.grid.roi, strict=True)]
        self.before: np.ndarray | None = None
        """The input plane before the current ones."""
        self.largest = 0
        """Largest grey value so far."""
        size = [stop - start for start, stop in box]
        self.layer = np.empty((min(output.shard, size[0]), *size[1:]), np.uint8)

    def predict(self, inferer: SlidingWindow, network: ScrollNetwork, intensity: ScaleIntensityRanged) -> Iterator[int]:
        """Predict and write, yielding the number of voxels of each group of planes."""
        # A padded axis has one window, so that all windows have their padding at the same place.
        scaled = ScaledWindows(intensity, self.part.padding if inferer.like_nnunet else ())
        (at, _), *rows_and_columns = self.part.inner
        inner = (slice(None), *(slice(*span) for span in rows_and_columns))
        z = self.box[0][0]
        with Planes(self.image.array, self.part, self.step) as planes:

            def read(start: int, stop: int) -> torch.Tensor:
                return torch.from_numpy(planes(start, stop))[None]

            for blended in inferer.planes(read, self.part, network, prepare=scaled):
                values = self._as_bytes(blended[0])
                values *= self._scanned(planes, at, len(values))[inner]
                self._collect(z, values)
                at += len(values)
                z += len(values)
                yield values.size

    def _scanned(self, planes: Planes, at: int, count: int) -> np.ndarray:
        """Mask of the scanned object: voxels that are not empty, and their 26 neighbours.

        Predictions elsewhere are cleared; neighbours are included so that single dark voxels in the scan do not
        puncture the surface. An axis whose windows do not overlap is left out, since a block may not have read the
        neighbouring voxels.
        """
        if self.before is None:
            self.before = planes(at - 1, at + 1)[:1]
        grey = np.concatenate([self.before, planes(at, at + count + 1)])
        self.before = grey[-2:-1]
        self.largest = max(self.largest, int(grey.max()))
        return ndimage.maximum_filter(grey, [3 if overlaps else 1 for overlaps in self.overlaps])[1:-1] != EMPTY

    def _as_bytes(self, probability: torch.Tensor) -> np.ndarray:
        if self.threshold is None:
            return probability.mul_(255).round_().to(torch.uint8).cpu().numpy()
        return (probability > self.threshold).to(torch.uint8).cpu().numpy()

    def _collect(self, z: int, values: np.ndarray) -> None:
        """Collect planes, starting with ``z`` of the output, and write each complete layer of shards."""
        edge, end = self.output.shard, self.box[0][1]
        while len(values):
            bottom = z // edge * edge
            top = min(bottom + edge, end)
            count = min(len(values), top - z)
            self.layer[z - bottom : z - bottom + count] = values[:count]
            z, values = z + count, values[count:]
            if z == top:
                self._write(bottom, top)

    def _write(self, bottom: int, top: int) -> None:
        edge = self.output.shard
        (first_y, _), (first_x, _) = self.box[1:]
        for position in self.output.positions(((bottom, top), *self.box[1:])):
            if position in self.missing:
                y, x = position[1] * edge - first_y, position[2] * edge - first_x
                self.output.write(position, self.layer[: top - bottom, y : y + edge, x : x + edge])


def write_coarse(job: Job, level: int, position: tuple[int, ...]) -> None:
    """Compute one shard of a coarse level."""
    job.open_output().write_coarse(level, position)


def _spans(missing: list[tuple[int, ...]], box: Box, edge: int) -> list[tuple[int, int]]:
    """First and last planes of groups of adjacent layers with missing shards."""
    layers = sorted({position[0] for position in missing})
    starts = [z for z in layers if z - 1 not in layers]
    ends = [z for z in layers if z + 1 not in layers]
    return [(start * edge, min((end + 1) * edge, box[0][1])) for start, end in zip(starts, ends, strict=True)]
