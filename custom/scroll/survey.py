"""Checks a scroll before it is predicted: missing chunks, and the identity of its content."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from ..errors import DataError
from ..ops.windows import Box
from .ome_zarr import Image

HEADS, HEAD_BYTES = 64, 1 << 16
"""Number of evenly spread chunks whose first bytes are hashed, since a replaced file may have the same time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """Missing chunks (of a sharded array: shards) of a part of a scroll, and the identity of the whole."""

    missing: int
    """Among those looked for."""
    looked_for: int
    """Fewer than ``total`` in a large scroll."""
    total: int
    identity: dict[str, str]
    """SHA-256 of the metadata, of sizes and times (or etags) of a sample of all chunks, and of the first bytes of some.
    It does not include the path."""


def survey(image: Image, box: Box) -> Survey:
    """Look for the chunks of a box, in voxels; warns, in one line, of missing ones.

    Raises:
        DataError: no chunk of the scroll was found.
    """
    volume = image.array
    everywhere, promised = volume.sample()
    wanted, total = volume.sample(box)
    there = image.store.versions({*everywhere, *wanted})
    if not there:
        raise DataError.of(
            volume.url,
            f"not one of {len(everywhere)} chunks looked for, of {promised} that the metadata promise",
            f"objects named as {everywhere[0]}",
        )
    missing = sum(key not in there for key in wanted)
    if missing and len(wanted) == total:
        warn_of_missing(image, missing, f"{total} chunks")
    elif missing:
        warn_of_missing(image, missing, f"{len(wanted)} chunks looked for, of {total} in all,")
    known = [(key, there[key]) for key in everywhere if key in there]
    heads = [key for key, _ in known[:: -(-len(known) // HEADS) or 1]]
    described = [volume.array.metadata.to_dict(), astuple(image.space)]
    identity = {
        "metadata": _digest([json.dumps(described, default=str).encode()]),
        "chunks": _digest(repr(item).encode() for item in known),
        "content": _digest(image.store.head(key, HEAD_BYTES) for key in heads),
    }
    return Survey(missing, len(wanted), total, identity)


def warn_of_missing(image: Image, missing: int, of: str) -> None:
    """Log in one line how many chunks are missing."""
    logger.warning(
        "%s: %d of %s are missing; they are read as %d", image.array.url, missing, of, image.array.fill_value
    )


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
