"""The section on training on a GPU, on a pretended one, without packages that not every machine has."""

import sys

import pytest

from scripts.benchmarks import inference, training
from scripts.benchmarks.measure import LIVER, SURFACE
from scripts.pretended_gpu import PretendedGPU, why_not

COMMON = (("precision", "float32"), ("num_workers", 0))
TINY = training.Sizes(
    scroll=40,
    ct=64,
    steps=1,
    epoch=2,
    options=(
        (SURFACE, (("patch_size", [16, 32, 32]), ("network_def#init_filters", 4), *COMMON)),
        (LIVER, (("slice_size", [64, 64]), ("network_def#backbone", "resnet18"), *COMMON)),
    ),
)


def test_what_ranges_cover():
    assert training.covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4


def test_without_a_gpu_nothing_is_measured():
    assert [row.ours for row in training.run("cpu")] == ["not measured"]


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_on_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "itk", None)
    monkeypatch.setitem(sys.modules, "topolosses", None)
    monkeypatch.setattr(inference, "BATCHES", (1,))
    monkeypatch.setattr(inference, "_bundle_windows", lambda: ([16, 32, 32], [0.5, 0.25, 0.25]))
    with PretendedGPU("real", bf16=False):
        rows = training.run("cuda", TINY)
        rows += inference.run("cuda", inference.Sizes(filters=4, gpu_volume=(24, 40, 40)))
    assert all(row.ours != "failed" for row in rows), rows
    assert [row.what.split(":")[0] for row in rows[:8]] == [SURFACE] * 4 + [LIVER] * 4
    assert rows[3].ours == rows[7].ours == "not measured" and rows[3].goal == ">= 0.9"
