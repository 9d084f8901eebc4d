"""Costs against what is counted one by one, and against what a prediction does."""

import itertools

import numpy as np
import pytest
import zarr

from custom.ops.windows import WindowGrid
from custom.scroll.blocks import fit, halve
from custom.scroll.costs import Layout, cost, plan_scroll

from .tiny_scroll import ROI, SHAPE, SMALL, STRIDE

CHUNKS = (8, 8, 8)


@pytest.mark.parametrize("region", [None, "3:28,:,5:21"])
def test_what_is_planned_is_what_is_counted_one_by_one(region):
    """A small volume, every chunk, window, shard and voxel of it in a loop."""
    grid = WindowGrid(SHAPE, ROI, STRIDE)
    found = cost(Layout(region=region, block=(16, 32, 16), **SMALL).plan(grid, CHUNKS), chunk=8, views=4)
    (z0, z1), (y0, y1), (x0, x1) = ((0, 28), (0, 32), (0, 26)) if region is None else ((3, 28), (0, 32), (5, 21))
    corners = [
        corner
        for corner in itertools.product(range(28), range(32), range(26))
        if all(
            (at % step == 0 and at + roi < size) or at == size - roi
            for at, step, roi, size in zip(corner, STRIDE, ROI, SHAPE, strict=True)
        )
    ]
    blocks = list(itertools.product(range(z0, z1, 16), range(y0, y1, 32), range(x0, x1, 16)))
    windows = requests = voxels = 0
    for z, y, x in blocks:
        ends = min(z + 16, z1), min(y + 32, y1), min(x + 16, x1)
        needed = [
            corner
            for corner in corners
            if all(a < end and a + roi > start for a, roi, start, end in zip(corner, ROI, (z, y, x), ends, strict=True))
        ]
        seen = np.zeros(SHAPE, bool)
        for a, b, c in needed:
            seen[a : a + 8, b : b + 12, c : c + 12] = True
        windows += len(needed)
        for a, b, c in itertools.product(range(0, 28, 8), range(0, 32, 8), range(0, 26, 8)):
            chunk = seen[a : a + 8, b : b + 8, c : c + 8]
            requests += chunk.any()
            voxels += chunk.size if chunk.any() else 0
    assert (found["blocks"], found["windows"], found["requests"]) == (len(blocks), windows, requests)
    assert found["bytes_read"] == voxels
    assert found["network_voxels"] == windows * 8 * 12 * 12 * 4
    assert found["voxels"] == (z1 - z0) * (y1 - y0) * (x1 - x0)


def test_writes_are_those_of_a_prediction(predict, tmp_path):
    """Which leaves out the shards that hold nothing but 0."""
    predict(output=tmp_path / "out", chunk=4, shard=8)
    found = cost(Layout(chunk=4, shard=8).plan(WindowGrid(SHAPE, ROI, STRIDE), CHUNKS), chunk=4)
    levels = [zarr.open_array(str(tmp_path / "out"), path=path, mode="r") for path in ("0", "1", "2")]
    empty = 0
    for level, edge in zip(levels, (8, 4, 4), strict=True):
        for corner in itertools.product(*(range(0, length, edge) for length in level.shape)):
            empty += not level[tuple(slice(start, start + edge) for start in corner)].any()
    shards, markers = (list((tmp_path / "out").glob(name)) for name in ("*/c/*/*/*", ".progress/*/*"))
    assert empty > 0
    assert found["objects_written"] == len(shards) + empty + len(markers)
    assert found["bytes_written"] == sum(level.size for level in levels)
    assert found["bytes_read_back"] == levels[1].size  # for level 2


def test_coarse_levels():
    volume, sizes = np.zeros((65, 50, 33), np.uint8), []
    while max(volume.shape) > 8:
        sizes.append(volume.size)
        volume = halve(volume, mask=False)
    sizes.append(volume.size)
    found = cost(Layout(chunk=4, shard=8).plan(WindowGrid((65, 50, 33), ROI, STRIDE), CHUNKS), chunk=4)
    assert found["bytes_written"] == sum(sizes)
    assert found["bytes_read_back"] == sum(sizes[1:-1])


def test_hours_count_what_is_predicted_twice(bundle):
    options = {"shape": SHAPE, "input_chunk": CHUNKS, "bundle": bundle, "memory": 1e9}
    whole = plan_scroll(workers=1, layout=Layout(block=(32, 32, 32), **SMALL), voxels_per_second=2.0, **options)
    assert whole["worker_hours"] == whole["hours"] == pytest.approx(28 * 32 * 26 / 2 / 3600)
    parts = plan_scroll(workers=4, layout=Layout(block=(16, 16, 16), **SMALL), voxels_per_second=2.0, **options)
    assert parts["windows"] > whole["windows"]
    assert parts["worker_hours"] == pytest.approx(whole["hours"] * parts["windows"] / whole["windows"])
    # 2 x 2 x 2 blocks: the last may begin when all others are done
    assert parts["worker_hours"] / 4 < parts["hours"] < parts["worker_hours"]
    assert parts["hours"] == pytest.approx(parts["worker_hours"] / 4 + 0.75 * _largest_block() * whole["hours"])
    assert "hours" not in plan_scroll(workers=4, layout=Layout(**SMALL), **options)


def _largest_block():
    """Share of the whole's windows that the block with most of them needs."""
    starts = [(0, 4, 8, 12, 16, 20), (0, 9, 18, 20), (0, 9, 14)]  # of all windows, along each axis
    most = 1.0
    for of_axis, roi in zip(starts, ROI, strict=True):
        most *= max(sum(at < end and at + roi > end - 16 for at in of_axis) for end in (16, 32)) / len(of_axis)
    return most


def test_blocks_are_those_of_the_engine(bundle, predict):
    found = plan_scroll(shape=SHAPE, input_chunk=CHUNKS, bundle=bundle, workers=2, memory=1e9, layout=Layout(**SMALL))
    summary = predict()
    assert (found["blocks"], found["windows"]) == (summary["blocks"], summary["planned"]["windows"])
    assert found["requests"] == summary["planned"]["chunks"]
    assert summary["chunks_fetched"] == found["requests"] - 2  # these hold 0 and were never written


def test_a_scroll_of_a_terabyte():
    grid = WindowGrid((14376, 7888, 8096), (72, 136, 136), (36, 104, 104))
    found = cost(fit(Layout().plan(grid, (128, 128, 128)), workers=8, memory=24e9))
    assert 918e9 < found["bytes_read"] <= 1.35 * 918.1e9
    assert found["requests"] == pytest.approx(found["bytes_read"] / 128**3, rel=0.05)
    assert found["network_voxels"] / found["voxels"] == pytest.approx(2 * (136 / 104) ** 2, rel=0.16)
    assert found["bytes_written"] == pytest.approx(918e9 * 8 / 7, rel=1e-3)
    assert found["memory"] < 0.6 * 24e9


def test_ill_shards():
    with pytest.raises(ValueError, match="shard: found 24, expected the chunk, 8, times a power of two"):
        Layout(chunk=8, shard=24).plan(WindowGrid(SHAPE, ROI, STRIDE), CHUNKS)
