"""The sections on feeding a GPU, at sizes where times say nothing."""

import pytest

from scripts.benchmarks import feed, pretend
from scripts.pretended_gpu import why_not

pytestmark = pytest.mark.slow


def test_items_and_their_transforms():
    rows = feed.run("cpu", feed.Sizes(scroll=40, patch=(16, 24, 24), ct=64, items=3))
    assert [row.goal for row in rows if row.goal] == ["<= 30", "<= 2", "<= 6", "<= 2"]
    assert any("RandFlipd" in row.what for row in rows)
    whole, parts = rows[0].ratio, [float(row.ours) for row in rows[1:] if row.what.startswith("of it")]
    assert whole > 0 and sum(parts) > 0


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_what_a_gpu_is_asked_to_do():
    surface = {"patch_size": [16, 32, 32], "network_def#init_filters": 4}
    options = {
        pretend.SURFACE: surface,
        pretend.FULL_SURFACE: surface,
        pretend.LIVER: {"slice_size": [64, 64], "network_def#decoder_channels": [8] * 5},
        pretend.FULL_LIVER: {"slice_size": [64, 64], "network_def#backbone": "efficientnet-b0"},
    }
    sizes = pretend.Sizes(scroll=40, ct=64, options=options)
    rows = pretend.run("cpu", sizes)
    assert all(row.ours != "failed" for row in rows)
    waits = [row for row in rows if "waits of the host in a step" in row.what]
    shapes = ["2 x 1 x 16 x 32 x 32", "2 x 1 x 16 x 32 x 32", "8 x 5 x 64 x 64", "8 x 1 x 64 x 64"]
    assert all(shape in row.what for shape, row in zip(shapes, waits, strict=True))
    assert sum(row.ratio for row in waits) == sum(int(row.ours) for row in rows if row.what.startswith("where: "))
