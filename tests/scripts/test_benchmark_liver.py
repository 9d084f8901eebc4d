"""The section on the liver at a size where its timings say nothing."""

import torch

from scripts.benchmarks.liver import Sizes, run
from scripts.benchmarks.measure import dice

TINY = Sizes(size=64, slices=4, batch=2, repeats=1, crop=32, crops=2, warm_up_steps=1)


def test_every_row_is_measured_and_has_its_goal():
    rows = run("cpu", TINY)
    assert [row.goal for row in rows if "tumour" not in row.what] == ["", ">= 1.5", ">= 0.999", "<= 0.05"]
    assert all(row.ratio >= 0 for row in rows)
    assert "64x64" in rows[0].what and rows[0].what.endswith("both in float32")


def test_dice_of_masks():
    a, b = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1
