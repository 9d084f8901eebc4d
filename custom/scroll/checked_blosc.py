"""Blosc codecs that reject truncated chunks.

The library trusts the length in the chunk's header (bytes 12 to 15) and reads beyond the end of a shorter buffer.
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from typing import Any

import numcodecs
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.registry import register_codec

HEADER = 16


class CheckedBlosc(Blosc):
    """The codec for zarr format 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decompress a chunk; raises a ValueError if it is truncated."""
        check_length(buf)
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):
    """The codec for zarr format 3."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        check_length(chunk_bytes.as_numpy_array())
        return await super()._decode_single(chunk_bytes, chunk_spec)


def check_length(chunk: Any) -> None:
    """Raise a ValueError for a compressed chunk that is shorter than its header says."""
    content = memoryview(chunk).cast("B")
    stated = int.from_bytes(content[12:HEADER], "little")
    if len(content) < max(HEADER, stated):
        raise ValueError(f"{len(content)} bytes of a Blosc chunk of {max(HEADER, stated)}")


def register() -> None:
    """Make zarr use the checked codecs in this process."""
    numcodecs.register_codec(CheckedBlosc)
    register_codec("blosc", CheckedBloscCodec)
    zarr.config.set({"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"})
