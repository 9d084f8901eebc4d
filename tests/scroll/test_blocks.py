"""Plans against windows and chunks counted one by one."""

import itertools

import numpy as np
import pytest
from monai.data.utils import dense_patch_slices

from custom.ops.windows import WindowGrid
from custom.scroll.blocks import MOST_READS, BlockPlan, choose_shard, fit, halve, parse_region

GRID = WindowGrid((50, 61, 43), (8, 12, 10), (4, 9, 10))
REGION = ((3, 47), (0, 61), (5, 40))


def plan(block=(16, 32, 16), **changes):
    arguments = {"grid": GRID, "region": REGION, "input_chunk": (7, 16, 5), "shard": 16, "block": block} | changes
    return BlockPlan(**arguments)


def whole(shape):
    return tuple((0, size) for size in shape)


@pytest.mark.parametrize("block", [(16, 32, 16), (64, 64, 64), (16, 16, 16)])
def test_blocks_hold_every_voxel_once(block):
    seen = np.zeros(plan().shape, int)
    for box in plan(block).blocks():
        seen[tuple(slice(*span) for span in box)] += 1
    assert (seen == 1).all()
    assert plan(block).count == len(plan(block).blocks())


@pytest.mark.parametrize("block", [(16, 32, 16), (64, 64, 64), (48, 16, 16)])
def test_windows_and_reads_are_what_is_counted_one_by_one(block):
    cut = plan(block)
    windows = [[(s.start, s.stop) for s in window] for window in dense_patch_slices(GRID.shape, GRID.roi, GRID.stride)]
    counts, chunks, voxels = [], 0, 0
    for box in cut.blocks():
        there = [(start + first, stop + first) for (start, stop), (first, _) in zip(box, REGION, strict=True)]
        touching = [
            window
            for window in windows
            if all(a < stop and b > start for (a, b), (start, stop) in zip(window, there, strict=True))
        ]
        counts.append(len(touching))
        held = {
            chunk
            for window in touching
            for chunk in itertools.product(
                *(range(a // n, (b - 1) // n + 1) for (a, b), n in zip(window, cut.input_chunk, strict=True))
            )
        }
        chunks += len(held)
        voxels += sum(
            np.prod(
                [
                    min((at + 1) * n, size) - at * n
                    for at, n, size in zip(chunk, cut.input_chunk, GRID.shape, strict=True)
                ]
            )
            for chunk in held
        )
    assert (cut.windows, cut.most_windows, cut.chunks_read) == (sum(counts), max(counts), chunks)
    assert cut.reads == pytest.approx(voxels / np.prod(cut.shape))


@pytest.mark.parametrize("shape", [(14376, 7888, 8096), (24297, 8343, 8343)])
@pytest.mark.parametrize("workers", [1, 8, 64])
def test_a_scroll_is_hardly_read_twice(shape, workers):
    """The field's own scrolls, the bundle's windows, 24 GB of memory a worker."""
    grid, chunk = WindowGrid(shape, (72, 136, 136), (36, 104, 104)), (128, 128, 128)
    shard = choose_shard(shape)
    assert shard == 512
    cut = fit(BlockPlan(grid, whole(shape), chunk, shard, (shard,) * 3), workers=workers, memory=24e9)
    assert cut.reads <= MOST_READS == 1.35
    assert cut.count >= workers
    assert cut.windows < 1.2 * grid.part().count


def test_less_memory_makes_smaller_blocks():
    shape = (14376, 7888, 8096)
    grid, chunk = WindowGrid(shape, (72, 136, 136), (36, 104, 104)), (128, 128, 128)
    sizes = []
    for memory in (16e9, 8e9, 4e9):
        cut = fit(BlockPlan(grid, whole(shape), chunk, 512, (512,) * 3), workers=4, memory=memory)
        assert cut.memory <= 0.6 * memory
        sizes.append(cut.block[1] * cut.block[2])
    assert sizes[0] > sizes[1] > sizes[2]


def test_memory_does_not_grow_with_depth():
    assert plan((16, 16, 16)).memory == plan((48, 16, 16)).memory


@pytest.mark.parametrize(
    ("shape", "shard"),
    [((14376, 7888, 8096), 512), ((1024, 9, 9), 512), ((600,) * 3, 256), ((512,) * 3, 256), ((9,) * 3, 128)],
)
def test_shards_fit_the_volume(shape, shard):
    assert choose_shard(shape) == shard


def test_blocks_of_parts_of_shards_are_refused():
    with pytest.raises(ValueError, match=r"multiples of the shard, 16 voxels, found \(16, 24, 16\)"):
        plan((16, 24, 16))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (None, ((0, 9), (0, 8), (0, 7))),
        ("1:2,3:4,5:6", ((1, 2), (3, 4), (5, 6))),
        (":, 2:, :7", ((0, 9), (2, 8), (0, 7))),
    ],
)
def test_region(text, box):
    assert parse_region(text, (9, 8, 7)) == box


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2,3:4,5:6,7:8", "1,2,3", "a:b,:,:", "2:2,:,:", "-3:2,:,:", ":10,:,:", "::2,:,:"]
)
def test_ill_region(text):
    with pytest.raises(ValueError, match="region: found"):
        parse_region(text, (9, 8, 7))


def test_halves_are_rounded_means():
    by_hand = np.array([[[0, 1, 10], [2, 3, 20]], [[4, 5, 30], [7, 255, 41]], [[8, 8, 255], [8, 9, 255]]], np.uint8)
    # (0+1+2+3+4+5+7+255)/8 = 34.6; (10+20+30+41)/4 = 25.25, its column counting twice; (8+8+8+9)/4 = 8.25; 255
    assert halve(by_hand, mask=False).tolist() == [[[35, 25]], [[8, 255]]]


def test_halves_of_masks_keep_thin_sheets():
    sheet = np.zeros((5, 4, 4), np.uint8)
    sheet[1, 0] = sheet[4, 3, 3] = 1
    expected = np.zeros((3, 2, 2), np.uint8)
    expected[0, 0] = expected[2, 1, 1] = 1
    assert np.array_equal(halve(sheet, mask=True), expected)
