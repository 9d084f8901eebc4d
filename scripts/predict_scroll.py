#!/usr/bin/env python3
"""Predict a whole scroll: OME-Zarr in, OME-Zarr out."""

import json as json_format
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fire

from custom.errors import DataError
from custom.files import write_whole

KINDS = ("probability", "mask")


def predict_scroll(
    input: str,
    output: str,
    bundle: str = "bundles/vesuvius_surface_3d",
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] = "inference",
    region: str | None = None,
    output_kind: str = "probability",
    threshold: float = 0.5,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    block: int | Sequence[int] | None = None,
    chunk: int = 128,
    shard: int | None = None,
    json: str | None = None,
) -> None:
    """Predict the surface in a scroll of any size, on this machine or on a Dask cluster.

    Run it again to go on after an interruption: only what is missing is computed. Progress goes to stderr, a summary
    in JSON to stdout. Exits with 1 if a block could not be predicted; the others are finished all the same.

    Paths may be local or URLs: gs://, s3:// (pip install s3fs), https:// (input only).

    Example: python scripts/predict_scroll.py --input s3://bucket/scroll.zarr --output gs://mine/surface.zarr

    Args:
        input: OME-Zarr image or zarr array (version 2 or 3), uint8 (z, y, x).
        output: OME-Zarr 0.5 to write.
        bundle: folder of the bundle.
        checkpoint: the weights, or several with commas between, whose mean is taken; by default models/model.pt.
        config: names of configurations in the bundle, later ones over earlier ones: inference,quickstart_inference.
        region: z0:z1,y0:y1,x0:x1 in voxels: predict this part alone, with the values that it has in the whole.
        output_kind: probability (0 to 255) or mask (0 and 1).
        threshold: probability above which a voxel of a mask is 1.
        scheduler: tcp://... of a Dask cluster whose workers have this repository on their PYTHONPATH.
        workers: processes on this machine; by default one for each GPU, else one for every 4 cores.
        threads: windows that a worker without a GPU predicts at a time; by default its share of the cores.
        batch_size: windows that a GPU predicts at a time; by default the bundle's.
        block: z,y,x of a task in voxels, multiples of the shard; by default chosen by memory and number of workers.
        chunk: edge of the output's chunks in voxels.
        shard: edge of the output's shards in voxels; by default 512, less for small volumes.
        json: a file to write the summary to as well.
    """
    try:
        from custom.scroll.engine import predict_scroll as predict
        from custom.scroll.model import Bundle
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected Python 3.11 or newer with requirements-scroll.txt")
    if output_kind not in KINDS:
        sys.exit(f"error: output_kind: found {output_kind!r}, expected one of {', '.join(KINDS)}")
    configs = _listed(config)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("custom").setLevel(logging.INFO)
    try:
        summary = predict(
            input=str(input),
            output=str(output),
            bundle=Bundle.read(str(bundle), configs=configs, checkpoint=checkpoint and _listed(checkpoint)),
            region=None if region is None else str(region),
            threshold=threshold if output_kind == "mask" else None,
            block=(block,) * 3 if isinstance(block, int) else block,
            chunk=chunk,
            shard=shard,
            scheduler=scheduler,
            workers=workers,
            threads=threads,
            batch_size=batch_size,
        )
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")
    text = json_format.dumps(summary, indent=2)
    print(text)
    if json:
        write_whole(json, lambda file: file.write_text(text + "\n", encoding="utf-8"))
    if summary["failed"]:
        sys.exit(f"error: {len(summary['failed'])} blocks failed, see the summary; run again to try them again")


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return names.split(",") if isinstance(names, str) else names


if __name__ == "__main__":
    fire.Fire(predict_scroll, name="predict_scroll.py")
