"""A synthetic scroll as OME-Zarr."""

from pathlib import Path

from custom.scroll.blocks import CHUNK
from custom.scroll.ome_zarr import write_image

from .layouts import claim
from .scroll import check_scroll, scroll_phantom

IMAGE, LABEL = "scroll.zarr", "label.zarr"


def write_zarr_scroll(
    output: str | Path, *, size: int = 512, seed: int = 9, pitch: float = 14.0, chunk: int = CHUNK
) -> Path:
    """Write ``scroll.zarr`` and ``label.zarr``, one cube of a scroll and its surface.

    The label is that of :func:`scripts.phantoms.scroll_phantom`, with only the border unlabelled. A cube of 512 voxels
    takes about 4 GB of memory.

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        size, seed, pitch: see :func:`scripts.phantoms.scroll_phantom`.
        chunk: edge of the chunks in voxels.

    Raises:
        DataError: an argument is out of its range, or the folder has other contents or cannot be written.
    """
    output = Path(output)
    options = {"size": size, "seed": seed, "pitch": pitch}
    check_scroll(**options, ignore=0.0)
    claim(output, {"phantoms": "zarr", **options, "chunk": chunk})
    image, label = scroll_phantom(**options, index=0, ignore=0.0)
    write_image(str(output / IMAGE), image, chunk=chunk, unit=None)
    write_image(str(output / LABEL), label, chunk=chunk, unit=None, mask=True)
    return output
