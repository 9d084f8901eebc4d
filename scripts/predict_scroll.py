"""Predict a whole scroll, from OME-Zarr to OME-Zarr."""

import json as json_format
import logging
import sys
from collections.abc import Sequence
from typing import Any

from scripts.command_line import command_line

from custom.errors import DataError
from custom.system.files import write_json

KINDS = ("probability", "mask")


def predict_scroll(
    input: str | None = None,
    output: str | None = None,
    bundle: str = "bundles/vesuvius_surface_3d",
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] = "inference",
    region: str | None = None,
    output_kind: str = "probability",
    threshold: float | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    block: int | Sequence[int] | None = None,
    chunk: int = 128,
    shard: int | None = None,
    overwrite: bool = False,
    same_input: bool = False,
    json: str | None = None,
    plan: bool = False,
    shape: Sequence[int] | None = None,
    memory_gb: float | None = None,
    voxels_per_second: float | None = None,
) -> None:
    """Predict the surface in a scroll of any size, on this machine or on a Dask cluster.

    Run the command again to continue after an interruption: only missing parts are computed; an existing output of
    another input, other weights or settings is refused. Progress is shown on stderr, a summary is printed as JSON on
    stdout. Exits with 1 if a block could not be predicted; the others are finished nevertheless.

    Paths may be local or URLs: gs://, s3:// (pip install s3fs), https:// (input only).

    With --plan True, nothing is predicted; the expected cost is printed as JSON. This only reads the input's metadata
    (with --shape not even these), and needs no weights.

    Example: python scripts/predict_scroll.py --input s3://bucket/scroll.zarr --output gs://mine/surface.zarr

    Args:
        input: OME-Zarr image or zarr array (version 2 or 3), uint8, axes in any order; those of the output are z, y, x.
        output: OME-Zarr 0.5 to write.
        bundle: folder of the bundle.
        checkpoint: the weights, or several files separated by commas, whose predictions are averaged; by default
            models/model.pt.
        config: names of configurations in the bundle, or paths of others; later ones override earlier ones:
            inference,quickstart or inference,imported/nnunet.json.
        region: z0:z1,y0:y1,x0:x1 in voxels: predict only this part, with the same values as in the whole.
        output_kind: probability (0 to 255) or mask (0 and 1).
        threshold: probability above which a voxel of a mask is 1; 0.5 by default.
        scheduler: tcp://... of a Dask cluster whose workers have this repository on their PYTHONPATH.
        workers: processes on this machine; by default one per GPU, or else one per 4 cores.
        threads: windows that a worker without a GPU predicts in parallel; by default its share of the cores.
        batch_size: windows per call of the network on a GPU; by default the bundle's.
        block: z,y,x of a task in voxels, multiples of the shard; by default chosen by memory and number of workers.
        chunk: edge of the output's chunks in voxels.
        shard: edge of the output's shards in voxels; by default 512, less for small volumes.
        overwrite: replace an existing prediction instead of continuing it.
        same_input: continue although size, time or content of the input's chunks changed, for example because it was
            copied without times, or unreadable chunks were repaired.
        json: a file to which the summary is also written.
        plan: print blocks, windows, reads, requests, writes and memory instead of predicting.
        shape: z,y,x of a volume in voxels, to plan without an input; its chunks are assumed to be 128^3.
        memory_gb: of each worker, to plan for; by default its share of this machine's.
        voxels_per_second: of one worker, to plan for, as shown by progress and summary; adds the hours.
    """
    try:
        from custom.scroll.costs import Layout
        from custom.scroll.engine import predict_scroll as predict
        from custom.scroll.model import Bundle
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected what pip install -e '.[scroll]' installs")
    threshold = _check_threshold(output_kind, threshold)
    _check_places(input, output, plan, shape)
    if not plan:
        _check_unread(scheduler, workers, shape=shape, memory_gb=memory_gb, voxels_per_second=voxels_per_second)
    _check_counts(workers=workers, threads=threads, batch_size=batch_size, chunk=chunk, shard=shard)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("custom").setLevel(logging.INFO)
    block = (block,) * 3 if isinstance(block, int) else block
    layout = Layout(None if region is None else str(region), block, chunk, shard)
    try:
        checkpoint = checkpoint and _listed(checkpoint)
        read = Bundle.read(str(bundle), configs=_listed(config), checkpoint=checkpoint, weights=not plan)
        options = {"bundle": read, "layout": layout}
        if plan:
            summary = _plan(input, shape, workers, memory_gb, voxels_per_second=voxels_per_second, **options)
        else:
            options |= {"scheduler": scheduler, "workers": workers, "threads": threads, "batch_size": batch_size}
            options |= {"threshold": threshold, "overwrite": overwrite, "same_input": same_input}
            summary = predict(input=str(input), output=str(output), **options)
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(json_format.dumps(summary, indent=2))
    if json:
        write_json(json, summary, indent=2)
    if not plan and summary["failed"]:
        sys.exit(f"error: {len(summary['failed'])} blocks failed, see the summary; run again to try them again")


def _check_threshold(kind: str, threshold: float | None) -> float | None:
    """Return the threshold of a mask; None for probabilities."""
    if kind not in KINDS:
        sys.exit(f"error: output_kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "probability":
        if threshold is not None:
            sys.exit(f"error: threshold: found {threshold!r} for probabilities, expected --output_kind mask with it")
        return None
    threshold = 0.5 if threshold is None else threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 1:
        sys.exit(f"error: threshold: found {threshold!r}, expected a probability from 0 to below 1")
    return threshold


def _check_unread(scheduler: str | None, workers: int | None, **of_plans: Any) -> None:
    """Raise for options that a prediction does not use."""
    for name, value in of_plans.items():
        if value is not None:
            sys.exit(f"error: {name}: found {value!r} without --plan True, which alone reads it")
    if scheduler is not None and workers is not None:
        sys.exit(f"error: workers: found {workers} with a scheduler, expected none: its workers are there already")


def _check_counts(**options: Any) -> None:
    for name, value in options.items():
        if value is not None and (type(value) is not int or value < 1):
            sys.exit(f"error: {name}: found {value!r}, expected a whole number above 0")


def _check_places(input: str | None, output: str | None, plan: bool, shape: Sequence[int] | None) -> None:
    if plan:
        if (input is None) == (shape is None):
            sys.exit(
                "error: plan: found " + ("neither" if shape is None else "both") + ", expected an input or a shape"
            )
        if shape is not None and not (isinstance(shape, (list, tuple)) and len(shape) == 3 and min(shape) > 0):
            sys.exit(f"error: shape: found {shape!r}, expected z,y,x in voxels")
    elif input is None or output is None:
        sys.exit(f"error: found no {'input' if input is None else 'output'}, expected one; --help shows how")


def _plan(
    input: str | None, shape: Sequence[int] | None, workers: int | None, memory_gb: float | None, **options: Any
) -> dict[str, Any]:
    from custom.scroll.blocks import CHUNK
    from custom.scroll.costs import plan_scroll
    from custom.scroll.engine import MEMORY_LIMIT, local_workers
    from custom.scroll.ome_zarr import open_image

    chunks = (CHUNK,) * 3
    if shape is None:
        array = open_image(str(input)).array
        shape, chunks = array.shape, array.chunks
    workers = workers or local_workers()
    memory = MEMORY_LIMIT / workers if memory_gb is None else memory_gb * 1e9
    return plan_scroll(shape=shape, input_chunk=chunks, workers=workers, memory=memory, **options)


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return names.split(",") if isinstance(names, str) else names


if __name__ == "__main__":
    command_line(predict_scroll, "predict_scroll.py")
