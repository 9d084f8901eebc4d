"""Results are compared, and a difference is seen."""

import pytest
import torch

from scripts.benchmarks import correctness
from scripts.benchmarks.correctness import Sizes, compare, difference, run

TINY = Sizes(
    patch=(1, 16, 32, 32),
    slices=(1, 64, 64),
    volume=(18, 40, 34),
    options={
        "vesuvius_surface_3d": {"init_filters": 8},
        "liver_tumor_2d": {"backbone": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]},
    },
)


def test_the_cpu_agrees_with_itself_in_everything():
    rows = run("cpu", TINY)
    assert len(rows) > 16
    assert all(row.met for row in rows), [row for row in rows if not row.met]
    assert not [row for row in rows if row.ratio > 1e-5]


def test_a_wrong_result_is_missed(monkeypatch):
    """A loss that is a hundredth too large wherever it runs second."""
    calls = []

    def work(device):
        calls.append(device)
        return [torch.tensor(1.0 + 0.01 * (len(calls) > 1))]

    row = compare("a loss", work, "cpu", 1e-3)
    assert row.met is False and row.ratio == pytest.approx(0.01 / 1.01)


def test_one_part_that_fails_leaves_the_others(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no kernel image\nis available | here")

    monkeypatch.setattr(correctness, "_liver_losses", broken)
    monkeypatch.setattr(correctness, "_networks", lambda *_: [])
    rows = run("cpu", TINY)
    failed = [row for row in rows if row.met is False]
    assert [(row.what, row.ours, row.theirs) for row in failed] == [
        ("the liver's losses and their gradients", "failed", "RuntimeError: no kernel image is available / here")
    ]
    assert rows[-1].met  # the part after it


@pytest.mark.parametrize(
    ("found", "expected", "share"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.0, 0.1], [0.0, 0.0], 0.1),
        ([float("nan"), 1.0], [1.0, 1.0], float("inf")),
        ([1.0], [1.0, 1.0], float("inf")),
    ],
)
def test_difference(found, expected, share):
    assert difference(torch.tensor(found), torch.tensor(expected)) == pytest.approx(share)
