"""Prediction of a scroll with Dask, on a local cluster or an existing one."""

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import torch
from dask.distributed import Client, Future, LocalCluster, as_completed, get_worker
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from tqdm import tqdm

from ..data.remote import is_url
from ..errors import DataError
from ..inferers.common import ACTIVATIONS
from ..ops.windows import Box
from .blocks import fit
from .costs import Layout
from .model import Bundle
from .ome_zarr import Image, Output, open_image
from .stores import INCOMPLETE
from .survey import Survey, survey, warn_of_missing
from .worker import EMPTY, Job, Result, predict_block, write_coarse

CORES = 4
"""CPU cores per worker, which predict windows in parallel."""
RETRIES = 3
"""Number of retries of a task that raises or loses its worker; finished shards are not repeated."""
CONNECT_SECONDS = 30
RESTART_SECONDS = 600
"""Time for a lost worker to be replaced. Starting a process, which imports torch, takes a minute on a busy machine or a
slow file system; Dask's default of 15 s leaves a run without workers, and waiting for ever."""
REPOSITORY = Path(__file__).resolve().parents[2]

logger = logging.getLogger(__name__)


def predict_scroll(
    *,
    input: str,
    output: str,
    bundle: Bundle,
    layout: Layout,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    same_input: bool = False,
) -> dict[str, Any]:
    """Predict a scroll, or continue a prediction.

    The result depends only on the input, the bundle and ``threshold``, not on workers or layout.

    Args:
        input: OME-Zarr image or zarr array, uint8 ``(D, H, W)``: a path or a URL.
        output: OME-Zarr to write, of the region's shape.
        bundle: network, windows and weights.
        layout: the region to predict, and blocks, shards and chunks.
        scheduler: address of a Dask scheduler; by default a cluster is started on this machine.
        workers: number of local workers; by default one per GPU, or else one per 4 cores.
        threads: windows that a worker without a GPU predicts in parallel; by default its share of the cores.
        batch_size: windows per call of the network on a GPU; by default the bundle's.
        threshold: writes a mask of 0 and 1; None: the probability from 0 to 255.
        overwrite: whether to replace an existing prediction instead of continuing it.
        same_input: whether to continue a prediction although the input's identity has changed.

    Returns:
        a summary of the work and its speed, and ``failed``, the blocks that could not be predicted and why.

    Raises:
        DataError: input, output or bundle cannot be used.
        ValueError: the layout does not fit the volume, or is inconsistent.
    """
    started = time.perf_counter()
    image = open_image(input)
    bundle.intensity()  # raises before any work
    source, place = _absolute(input), _absolute(output)
    if f"{source}/".startswith(f"{place.rstrip('/')}/"):
        raise DataError.of(place, "the place of the input", "another place")
    plan = layout.plan(bundle.windows().grid(image.array.shape), image.array.chunks)
    job = Job(source, place, bundle, plan, layout.chunk, threshold, threads or 1, batch_size)
    surveyed = survey(image, plan.part(tuple((0, length) for length in plan.shape)).read)
    with _client(scheduler, workers) as client:
        written = job.open_output()
        settings = _settings(job) | {"input": surveyed.identity}
        offset = [start for start, _ in plan.region]
        written.create(settings, image.space, offset, source=source, overwrite=overwrite, same_input=same_input)
        count, cores, memory = _resources(client)
        if layout.block is None:
            job = replace(job, plan=fit(plan, workers=count, memory=memory))
        job = replace(job, threads=threads or cores)
        results, failed = _predict_blocks(client, job, written, by_number=scheduler is None)
        failed = failed or _write_coarse_levels(client, job, written)
    if not failed and not is_url(output):
        for left in Path(output).rglob(f"*{INCOMPLETE}"):  # of killed writers
            left.unlink(missing_ok=True)
    _warn(image, surveyed, results)
    return _summary(job, results, failed, time.perf_counter() - started)


def _warn(image: Image, surveyed: Survey, results: Sequence[Result]) -> None:
    """Warn of what is only known after reading the whole region."""
    missing = frozenset().union(*(result.missing for result in results))
    if missing and surveyed.looked_for < surveyed.total:
        warn_of_missing(image, len(missing), f"{surveyed.total} chunks, as far as this run asked for them,")
    if max((result.largest for result in results), default=0) == 1:
        logger.warning("%s: no grey value above 1, expected 0 to 255; is it a mask?", image.array.url)


def _predict_blocks(
    client: Client, job: Job, output: Output, *, by_number: bool
) -> tuple[list[Result], dict[str, str]]:
    """Predict all blocks with missing shards; returns results, and errors by block.

    Workers use this machine's GPUs by their number, or else each its first one.
    """
    plan, done, left = job.plan, output.done(0), {}
    for box in plan.blocks():
        missing = {position[0] for position in output.positions(box) if position not in done}
        planes = sum(min((z + 1) * output.shard, box[0][1]) - z * output.shard for z in missing)
        if planes:
            left[box] = planes * (box[1][1] - box[1][0]) * (box[2][1] - box[2][0])
    size = "x".join(map(str, plan.block))
    logger.info("%d of %d blocks to do, of up to %s voxels", len(left), plan.count, size)
    logger.info("Reads: %.2f times the voxels; memory: %.1f GB a worker", plan.reads, plan.memory / 1e9)
    topic = f"scroll-{uuid.uuid4().hex}"
    with tqdm(total=sum(left.values()), unit="voxel", unit_scale=True, desc="scroll", smoothing=0.05) as bar:
        predicted = Counter()

        def show(event: tuple[float, tuple[int, int]]) -> None:
            index, voxels = event[1]
            predicted[index] = voxels  # a retried block counts anew
            bar.update(sum(predicted.values()) - bar.n)

        client.subscribe_topic(topic, show)
        futures = [
            _submit(client, _predict, job, box, index, topic, by_number, priority=-index)
            for index, box in enumerate(left)
        ]
        results, failed = [], {}
        bar.set_postfix_str(f"blocks 0/{len(futures)}")
        for future in as_completed(futures):
            index = futures.index(future)
            if future.status == "finished":
                results.append(future.result())
                predicted[index] = results[-1].voxels
            else:
                name = ",".join(f"{start}:{stop}" for start, stop in list(left)[index])
                failed[name] = _one_line(future.exception())
            bar.set_postfix_str(f"blocks {len(results)}/{len(futures)}")
        client.unsubscribe_topic(topic)
        bar.update(sum(predicted.values()) - bar.n)
    return results, failed


def _write_coarse_levels(client: Client, job: Job, output: Output) -> dict[str, str]:
    """Compute the pyramid levels that need several blocks; returns errors by shard."""
    for level in range(output.inner_levels, output.levels):
        done = output.done(level)
        missing = [position for position in output.level_shards(level) if position not in done]
        futures = [_submit(client, write_coarse, job, level, position) for position in missing]
        for _ in tqdm(as_completed(futures), total=len(futures), desc=f"level {level}", disable=not futures):
            pass
        failed = {
            f"level {level}, shard {position}": _one_line(future.exception())
            for position, future in zip(missing, futures, strict=True)
            if future.status != "finished"
        }
        if failed:
            return failed
    return {}


def _submit(client: Client, work: Callable, *args: Any, **options: Any) -> Future:
    return client.submit(work, *args, pure=False, retries=RETRIES, **options)


def _predict(job: Job, box: Box, index: int, topic: str, by_number: bool) -> Result:
    """Run a task in a worker."""
    worker, reported = get_worker(), time.monotonic()

    def progress(voxels: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            worker.log_event(topic, (index, voxels))

    number = worker.name if by_number and isinstance(worker.name, int) else 0
    device = f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    return predict_block(job, box, device, progress)


@contextmanager
def _client(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """Context with a client of the existing cluster, or of a temporary local one."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise DataError.of(scheduler, f"no scheduler ({error})", "the address of a Dask scheduler") from None
        with client:
            logger.info("Waiting for workers at %s", scheduler)
            client.wait_for_workers(1)
            yield client
        return
    count = workers or local_workers()
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": RETRIES,
                "distributed.deploy.lost-worker-timeout": RESTART_SECONDS,
                "distributed.scheduler.no-workers-timeout": RESTART_SECONDS,
            }
        ),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=MEMORY_LIMIT // count,
            silence_logs=logging.ERROR,
            env={"PYTHONPATH": os.pathsep.join(path)},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def local_workers() -> int:
    """Return the number of workers for this machine: one per GPU, or else one per 4 cores."""
    return torch.cuda.device_count() or max(1, CPU_COUNT // CORES)


def _resources(client: Client) -> tuple[int, int, int]:
    """Number of workers, threads and bytes of memory for each; verifies that they can import this package."""
    logger.info("Dask dashboard: %s", client.dashboard_link)
    try:
        cores = client.run(_cores)
    except ModuleNotFoundError as error:
        raise DataError.of("the workers", f"no module {error.name!r}", "this repository on their PYTHONPATH") from None
    workers = client.scheduler_info(n_workers=-1)["workers"]
    on_host = Counter(worker["host"] for worker in workers.values())
    shares = [count // on_host[workers[address]["host"]] for address, count in cores.items() if address in workers]
    memory = min(worker["memory_limit"] or MEMORY_LIMIT // len(workers) for worker in workers.values())
    return len(workers), max(1, min(shares)), memory


def _cores() -> int:
    """Number of CPU cores of a worker's machine. The worker must import this module to run it."""
    return CPU_COUNT


def _settings(job: Job) -> dict[str, Any]:
    """Settings that determine the result."""
    windows = job.bundle.windows()
    scale = job.bundle.intensity().scaler
    return {
        "region": [list(span) for span in job.plan.region],
        "kind": "probability" if job.threshold is None else "mask",
        "threshold": job.threshold,
        "model": {
            "version": job.bundle.version,
            "sha256": job.bundle.sha256,
            "network": job.bundle.definition("network_def"),
        },
        "windows": {
            "roi_size": list(windows.roi_size),
            "stride": list(windows.even if windows.like_nnunet else windows.stride),
            "views": [
                {key: value for key, value in view._asdict().items() if key != "angle" or value}
                for view in windows.views
            ],
            "activation": next(name for name, function in ACTIVATIONS.items() if function is windows.activation),
            "channels": windows.channels,
            **({"convention": "nnunet"} if windows.like_nnunet else {}),
        },
        "grey_values": {key: getattr(scale, key) for key in ("a_min", "a_max", "b_min", "b_max", "clip")},
        "empty_value": EMPTY,
        "precision": windows.precision,
    }


def _summary(job: Job, results: list[Result], failed: dict[str, str], seconds: float) -> dict[str, Any]:
    voxels, windows, predicted, fetched, read = (
        sum(getattr(result, key) for result in results)
        for key in ("voxels", "windows", "predicted", "fetched", "bytes")
    )
    plan = job.plan
    return {
        "output": job.output,
        "shape": list(plan.shape),
        "blocks": plan.count,
        "blocks_done_now": len(results),
        "blocks_done_before": plan.count - len(results) - len(failed),
        "failed": failed,
        "voxels": voxels,
        "seconds": round(seconds, 3),
        "voxels_per_second": round(voxels / seconds),
        "planned": {"reads": round(plan.reads, 4), "chunks": plan.chunks_read, "windows": plan.windows},
        "windows": windows,
        "windows_predicted": predicted,
        "chunks_fetched": fetched,
        "chunks_missing": len(frozenset().union(*(result.missing for result in results))),
        "bytes_fetched": read,
        "peak_memory_of_a_worker": max((result.memory for result in results), default=0),
    }


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).resolve())


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
