"""The sections on inference at sizes where timings say nothing, and memory and reads already do."""

import os

import pytest

from scripts.benchmarks import inference

TINY = inference.Sizes(
    filters=8,
    roi=(16, 32, 32),
    overlap=(0.5, 0.25, 0.25),
    volume=(24, 32, 40),
    steps=2,
    patch=16,
    repeats=1,
    long=(576, 272, 272),
    memory_roi=(16, 32, 32),
)


def test_windows():
    equal, fast, dice, outside = inference.cpu(TINY)
    assert equal.what.endswith("both in float32") and equal.theirs == fast.theirs.replace(", float32", "")
    assert [row.goal for row in (fast, dice, outside)] == [">= 2.3", ">= 0.999", "<= 0.03"]
    assert fast.ratio > 0 and fast.theirs.endswith("(MONAI, float32)")
    assert 0.9 < dice.ratio <= 1
    assert 0 <= outside.ratio < 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux")
def test_memory(monkeypatch):
    monkeypatch.setattr(inference, "in_a_process", lambda work, *args: work(*args))
    rows = inference.memory(TINY)
    assert [row.goal for row in rows] == ["<= 0.5", "<= 0.5"]
    assert 0.1 < rows[0].ratio < 0.7
    assert all(row.ours.endswith(" MiB") for row in rows)
