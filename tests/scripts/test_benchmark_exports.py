"""The section on exports at sizes where timings say nothing."""

import pytest
import torch

from scripts.benchmarks import exports

from custom.inferers.common import fast_dtype

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TINY = exports.Sizes(
    shapes={"vesuvius_surface_3d": (1, 1, 16, 24, 16), "liver_tumor_2d": (2, 1, 32, 64)},
    overrides={
        "vesuvius_surface_3d": {"network_def#init_filters": 8, "network_def#blocks_down": [1, 1]},
        "liver_tumor_2d": {"network_def#backbone": "resnet10", "network_def#decoder_channels": [8, 8, 8, 8, 8]},
    },
    repeats=1,
)


@pytest.mark.slow
def test_every_way_is_timed_and_answers_as_eager():
    rows = exports.run("cpu", TINY)
    times = 3 if fast_dtype(torch.device("cpu")) else 2  # in bfloat16 only where the processor has instructions for it
    assert len(rows) == 2 * (times + 2)
    for name in TINY.shapes:
        own = [row for row in rows if row.what.startswith(name)]
        assert [row.goal for row in own] == [""] * times + ["<= 0.0001"] * 2
        assert all(row.ratio > 0 for row in own[:2])
        assert all(row.met for row in own[times:])


def test_a_gpu_is_no_place_for_it():
    (row,) = exports.run("cuda")
    assert row.ratio is None
