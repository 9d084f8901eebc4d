import csv
import json
import math

import numpy as np
import pytest

from custom.metrics.liver_case import COLUMNS, measure
from custom.metrics.liver_report import detection, format_table, summarise, write_reports

REGION = {"dice", "voe", "rvd", "assd", "hd95"}


def volume(text):
    return np.array([[list(map(int, text))]], np.uint8)


@pytest.fixture
def cases():
    """A good one, one whose tumour was missed, and a tumour-free one with a false alarm and no known spacing."""
    return {
        "volume-1": measure(volume("0112200"), volume("0112200"), (1, 1, 2)),
        "volume-2": measure(volume("1111000"), volume("0112222"), (1, 1, 2)),
        "volume-10": measure(volume("0112110"), volume("0111110"), None),
    }


def test_form_of_the_json(cases):
    scores = json.loads(json.dumps(summarise(cases), allow_nan=False))
    assert list(scores) == ["cases", "mean", "global"]
    assert list(scores["cases"]) == ["volume-1", "volume-2", "volume-10"]
    for case in scores["cases"].values():
        assert set(case) == {"liver", "tumor", "lesions"}
        assert set(case["liver"]) == set(case["tumor"]) == REGION
        assert set(case["lesions"]) == {"tp", "fp", "fn"}
        assert all(isinstance(count, int) for count in case["lesions"].values())
    assert REGION == set(scores["mean"]["liver"]) == set(scores["mean"]["tumor"])
    assert set(scores["global"]) == {"liver_dice", "tumor_dice"}


def test_cases_by_hand(cases):
    scores = summarise(cases)["cases"]
    assert scores["volume-1"] == {
        "liver": {"dice": 1, "voe": 0, "rvd": 0, "assd": 0, "hd95": 0},
        "tumor": {"dice": 1, "voe": 0, "rvd": 0, "assd": 0, "hd95": 0},
        "lesions": {"tp": 1, "fp": 0, "fn": 0},
    }
    assert scores["volume-2"]["tumor"] == {"dice": 0, "voe": 1, "rvd": -1, "assd": None, "hd95": None}
    assert scores["volume-10"]["tumor"] == {"dice": 0, "voe": 1, "rvd": None, "assd": None, "hd95": None}
    assert scores["volume-10"]["liver"] == {"dice": 1, "voe": 0, "rvd": 0, "assd": None, "hd95": None}


def test_means_leave_out_what_is_undefined_and_say_so(cases):
    mean = summarise(cases)["mean"]
    # The second liver: 4 voxels found, 6 true, 3 in common, of 7.
    assert mean["liver"]["dice"] == pytest.approx((1 + 6 / 10 + 1) / 3)
    assert mean["liver"]["voe"] == pytest.approx((0 + 4 / 7 + 0) / 3)
    assert mean["liver"]["rvd"] == pytest.approx((0 - 2 / 6 + 0) / 3)
    assert mean["tumor"]["dice"] == pytest.approx(1 / 3)
    assert mean["tumor"]["rvd"] == pytest.approx((0 - 1) / 2)
    assert mean["tumor"]["hd95"] == 0
    assert mean["defined"]["liver"] == {"dice": 3, "voe": 3, "rvd": 3, "assd": 2, "hd95": 2}
    assert mean["defined"]["tumor"] == {"dice": 3, "voe": 3, "rvd": 2, "assd": 1, "hd95": 1}


def test_global_dice_pools_voxels(cases):
    assert summarise(cases)["global"] == {
        "liver_dice": pytest.approx(2 * (4 + 3 + 5) / ((4 + 4) + (4 + 6) + (5 + 5))),
        "tumor_dice": pytest.approx(2 * (2 + 0 + 0) / ((2 + 2) + (0 + 4) + (1 + 0))),
    }


def test_lesions_are_pooled_over_cases(cases):
    lesions = summarise(cases)["mean"]["lesions"]
    assert lesions == pytest.approx({"tp": 1 / 3, "fp": 1 / 3, "fn": 1 / 3, "precision": 0.5, "recall": 0.5, "f1": 0.5})


def test_tumor_burden_is_a_root_mean_square(cases):
    errors = [0, 0 - 4 / 6, 1 / 5 - 0]
    assert summarise(cases)["mean"]["tumor_burden_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize(
    "counts, expected",
    [
        ((3, 1, 2), (3 / 4, 3 / 5, 6 / 9)),
        ((0, 2, 0), (0, None, 0)),
        ((0, 0, 2), (None, 0, 0)),
        ((0, 0, 0), (None, None, None)),
    ],
)
def test_detection_by_hand(counts, expected):
    assert tuple(detection(*counts).values()) == pytest.approx(expected)


def test_healthy_livers_alone_leave_the_tumour_undefined():
    scores = summarise({"a": measure(volume("0110"), volume("0110"))})
    assert set(scores["mean"]["tumor"].values()) == {None}
    assert scores["global"] == {"liver_dice": 1, "tumor_dice": None}
    assert scores["mean"]["lesions"]["f1"] is None


def test_no_cases_at_all():
    scores = summarise({})
    assert scores["cases"] == {} and scores["global"] == {"liver_dice": None, "tumor_dice": None}
    assert "over cases" in format_table({})


def test_table_holds_every_number(cases):
    table = format_table(cases).splitlines()
    by_name = {line.split("  ")[0]: line.split() for line in table}
    overlap, surface, lesions = by_name["volume-2"][1:4], by_name["volume-2"][4:6], by_name["volume-2"][-3:]
    assert overlap == ["0.600", "0.571", "-0.333"]
    assert surface == [f"{cases['volume-2'][name]:.3f}" for name in ("liver_assd", "liver_hd95")]
    assert by_name["volume-2"][6:11] == ["0.000", "1.000", "-1.000", "-", "-"]
    assert lesions == ["0", "0", "1"]
    assert by_name["over cases"][-13:] == ["3", "3", "3", "2", "2", "3", "3", "2", "1", "1", "3", "3", "3"]
    assert by_name["mean"][-3:] == ["1", "1", "1"]
    assert "precision 0.500, recall 0.500, f1 0.500" in table[-2]
    assert "liver dice 0.857" in table[-1]
    assert max(map(len, table[:-3])) <= 120


def test_files(cases, tmp_path):
    write_reports(cases, tmp_path / "new")
    with (tmp_path / "new" / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == list(cases)
    for row, values in zip(rows, cases.values(), strict=True):
        assert list(row)[1:] == list(COLUMNS[:14])  # the voxel counts that follow are for the global Dice
        for name in set(row) - {"case"}:
            expected = values[name]
            assert row[name] == "" if math.isnan(expected) else float(row[name]) == pytest.approx(expected, abs=1e-5)
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == summarise(cases)
    assert (tmp_path / "new" / "dice_histogram.png").read_bytes().startswith(b"\x89PNG")


def test_histogram_of_nothing(tmp_path):
    write_reports({}, tmp_path)
    assert (tmp_path / "dice_histogram.png").stat().st_size > 1000
