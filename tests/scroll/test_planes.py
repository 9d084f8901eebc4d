"""Planes against numpy's own padding."""

import numpy as np
import pytest
import zarr

from custom.ops.windows import WindowGrid
from custom.scroll.blocks import row_depth
from custom.scroll.planes import Planes
from custom.scroll.stores import open_store

ROI, STRIDE = (8, 6, 6), (4, 3, 5)


@pytest.mark.parametrize(
    ("shape", "chunk", "box"),
    [
        ((30, 20, 17), (5, 7, 7), ((0, 30), (0, 20), (0, 17))),
        ((30, 20, 17), (1, 20, 17), ((11, 19), (2, 3), (9, 17))),
        ((30, 20, 17), (30, 9, 9), ((29, 30), (0, 20), (16, 17))),
        ((5, 4, 17), (4, 4, 4), ((1, 2), (0, 4), (3, 9))),
    ],
)
def test_planes_are_those_of_the_volume_and_each_chunk_is_fetched_once(tmp_path, shape, chunk, box):
    values = np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)
    zarr.create_array(str(tmp_path / "a"), data=values, chunks=chunk)
    store = open_store(str(tmp_path / "a"), read_only=True)
    part = WindowGrid(shape, ROI, STRIDE).part(box)
    expected = np.pad(values[tuple(slice(*span) for span in part.read)], part.padding, mode="edge")
    with Planes(zarr.open_array(store, mode="r"), part, STRIDE[0]) as planes:
        for start in part.starts[0]:
            assert np.array_equal(planes(start, start + ROI[0]), expected[start : start + ROI[0]])
            assert np.array_equal(planes(start + 3, start + 5), expected[start + 3 : start + 5])
    touched = [(stop - 1) // n - start // n + 1 for (start, stop), n in zip(part.read, chunk, strict=True)]
    assert store.fetched == np.prod(touched)


@pytest.mark.parametrize("chunk", [1, 3, 4, 8, 16])
def test_the_plane_before_the_windows_is_kept(tmp_path, chunk):
    """Also where a window starts with a chunk. Earlier ones are not, and asking for them is an error."""
    values = np.random.default_rng(0).integers(1, 255, (40, 6, 6)).astype(np.uint8)
    array = zarr.create_array(str(tmp_path / "a"), data=values, chunks=(chunk, 6, 6))
    part = WindowGrid(values.shape, ROI, STRIDE).part()
    padded = np.pad(values, [(1, 0), (0, 0), (0, 0)], mode="edge")
    with Planes(array, part, STRIDE[0]) as planes:
        for start in part.starts[0]:
            window, row = planes(start, start + ROI[0]), row_depth(chunk, STRIDE[0])
            kept = sum(len(values) for *_, values in planes.kept)
            assert len(window) + kept + row <= 2 * ROI[0] + 3 * row  # as BlockPlan.memory counts them
            assert np.array_equal(planes(start - 1, start + 1), padded[start : start + 2])
        with pytest.raises(RuntimeError, match="plane 12 is asked for"):
            planes(12, 14)


def test_a_failed_read_is_raised(tmp_path):
    array = zarr.create_array(str(tmp_path / "a"), data=np.ones((9, 9, 9), np.uint8), chunks=(3, 9, 9))
    (tmp_path / "a" / "c" / "1" / "0" / "0").write_bytes(b"damaged")
    part = WindowGrid((9, 9, 9), (4, 9, 9), (4, 9, 9)).part()
    with Planes(array, part, 4) as planes, pytest.raises(Exception, match=r"(?i)zstd|decompress|frame"):
        for start in part.starts[0]:
            planes(start, start + 4)
