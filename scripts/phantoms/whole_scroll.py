"""A synthetic scroll as OME-Zarr."""

import sys
from pathlib import Path

from .layouts import claim
from .scroll import check_scroll, scroll_phantom

IMAGE, LABEL = "scroll.zarr", "label.zarr"


def write_zarr_scroll(
    output: str | Path, *, size: int = 512, seed: int = 9, pitch: float = 14.0, chunk: int = 128
) -> Path:
    """Make one large cube of a papyrus scroll as OME-Zarr, for scripts/predict_scroll.py.

    Writes scroll.zarr and label.zarr (0 background, 1 recto, 2 the unlabelled border). The same arguments give the same
    files. 512 voxels take about a minute and 4 GB of memory.

    Example: python scripts/make_phantoms.py zarr --output phantoms/zarr --size 256

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        size: edge of the cube in voxels, at least 16.
        seed: determines the scroll; with the default, part of the cube is outside of the scroll.
        pitch: mean distance between windings in voxels.
        chunk: edge of the chunks in voxels.

    Raises:
        DataError: an argument is out of its range, or the folder has other contents or cannot be written.
    """
    try:
        from custom.scroll.ome_zarr import write_image
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected what pip install -e '.[scroll]' installs")
    output = Path(str(output))
    options = {"size": size, "seed": seed, "pitch": pitch}
    check_scroll(**options, ignore=0.0)
    claim(output, {"phantoms": "zarr", **options, "chunk": chunk})
    image, label = scroll_phantom(**options, index=0, ignore=0.0)
    write_image(str(output / IMAGE), image, chunk=chunk)
    write_image(str(output / LABEL), label, chunk=chunk, mask=True)
    return output
