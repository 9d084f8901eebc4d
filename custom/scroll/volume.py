"""A zarr array as a volume with axes z, y, x, and the keys of its chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import zarr

from ..errors import DataError
from ..ops.windows import Box
from .checked_blosc import register

register()

LOOKED_FOR = 4096
"""Largest number of chunks to look for before a run, which takes some seconds for a bucket."""


@dataclass(frozen=True)
class Volume:
    """A uint8 volume ``(D, H, W)``: the axes z, y and x of an array, whose other axes have length 1."""

    array: zarr.Array
    order: tuple[int, int, int]
    url: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) in voxels."""
        return tuple(self.array.shape[axis] for axis in self.order)

    @property
    def chunks(self) -> tuple[int, ...]:
        """(D, H, W) of the unit of reading, in voxels: chunks, also within shards."""
        return tuple(self.array.chunks[axis] for axis in self.order)

    @property
    def fill_value(self) -> int:
        return int(self.array.fill_value or 0)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return voxels by slices and integers for z, y, x.

        Raises:
            DataError: a chunk cannot be read; it is named.
        """
        index = (slice(None),) * 3 if index is Ellipsis else index
        selection: list[Any] = [0] * self.array.ndim
        for axis, part in zip(self.order, index, strict=True):
            selection[axis] = part
        try:
            values = self.array[tuple(selection)]
        except MemoryError:
            raise DataError.of(self.url, f"{self.shape} voxels", "a volume that fits into memory") from None
        except Exception as error:  # codecs and stores raise various types
            self._raise_for_broken_chunk(selection, error)
            values = self.array[tuple(selection)]
        kept = [axis for axis, part in zip(self.order, index, strict=True) if isinstance(part, slice)]
        values = np.asarray(values).transpose([sorted(kept).index(axis) for axis in kept])
        return np.ascontiguousarray(values)

    def key(self, position: Sequence[int]) -> str:
        """Return the key of the object that holds a chunk, by its position along the array's axes."""
        return "/".join(filter(None, [self.array.store_path.path, self.array.metadata.encode_chunk_key(position)]))

    def sample(self, box: Box | None = None) -> tuple[list[str], int]:
        """Return keys of the chunks in a box (by default all), evenly sampled if there are many, and their number."""
        stored = self.array.shards or self.array.chunks
        spans = [(0, 1)] * self.array.ndim
        for axis, (start, stop) in zip(self.order, box or [(0, length) for length in self.shape], strict=True):
            spans[axis] = (start // stored[axis], -(-stop // stored[axis]))
        counts = [stop - start for start, stop in spans]
        total = int(np.prod(counts, dtype=object))
        chosen: Iterable[int] = range(total)
        if total > LOOKED_FOR:
            chosen = np.unique(np.random.default_rng(0).integers(0, total, LOOKED_FOR))
        positions = np.stack(np.unravel_index(np.asarray(chosen, int), counts), axis=1) if total else []
        firsts = [start for start, _ in spans]
        return [self.key(tuple(map(int, position + firsts))) for position in positions], total

    def _raise_for_broken_chunk(self, selection: Sequence[Any], cause: Exception) -> None:
        """Find the chunk at which a read failed, by reading them one by one; none fails if the error was transient."""
        stored = self.array.shards or self.array.chunks
        places = []
        for part, length, step in zip(selection, self.array.shape, stored, strict=True):
            start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
            places.append(range(start // step, -(-stop // step)))
        for position in product(*places):
            try:
                self.array[tuple(slice(at * step, (at + 1) * step) for at, step in zip(position, stored, strict=True))]
            except Exception as error:
                reason = f"a chunk that cannot be read ({type(error).__name__}: {error})"
                expected = f"what the metadata of the array say: {self._encoding()}"
                raise DataError.of(f"{self.url.rstrip('/')}/{self.key(position)}", reason, expected) from cause

    def _encoding(self) -> str:
        compressors = [getattr(codec, "codec_name", type(codec).__name__) for codec in self.array.compressors]
        return f"{self.array.dtype} {self.array.chunks}, {', '.join(compressors) or 'not compressed'}"
