import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from custom.data.writing import write_volume
from custom.errors import DataError
from custom.metrics.vesuvius_metric import score_folders, score_volume
from custom.ops.betti import INSTALL, betti_available

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "score.py"
KEYS = ["score", "toposcore", "surface_dice", "voi_score"]
CHEAP = ("surface_dice", "voi_score")

needs_betti = pytest.mark.skipif(not betti_available(), reason=INSTALL)


def label(seed=0):
    mask = np.zeros((12, 14, 16), np.uint8)
    mask[3:5] = mask[8:10] = 1
    mask[:, :2] = 2
    mask[:, 6, 3 + seed] = 0
    return mask


def prediction(seed=0):
    mask = label(seed) == 1
    mask[3:5, 9, 9] = False
    mask[5:8, 5, 5 + seed] = True
    return mask.astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    for case in (0, 1, 10):
        write_volume(tmp_path / "train_labels" / f"{case}.tif", label(case), np.eye(4))
        write_volume(tmp_path / "predictions" / f"{case}.tif", prediction(case), np.eye(4))
    (tmp_path / "train.csv").write_text("id,scroll_id\n0,34117\n1,35360\n10,34117\n")
    return str(tmp_path / "predictions"), str(tmp_path / "train_labels")


@pytest.fixture
def run(monkeypatch, capsys):
    """The script in this process, which has loaded the slow libraries already: exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@needs_betti
def test_the_command_prints_a_table_and_writes_json(folders, tmp_path, run):
    code, printed, _ = run("vesuvius", *folders, "--json", tmp_path / "out" / "scores.json")
    assert code == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(scores) == ["cases", "mean"] and list(scores["cases"]) == ["0", "1", "10"]
    for case, values in scores["cases"].items():
        expected = score_volume(prediction(int(case)), label(int(case)))
        assert list(values) == KEYS
        assert values == pytest.approx({key: expected[key] for key in KEYS})
    for key in KEYS:
        assert scores["mean"][key] == pytest.approx(np.mean([case[key] for case in scores["cases"].values()]))

    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == ["volume", "scroll", *KEYS]
    assert [row[:2] for row in rows[1:4]] == [["0", "34117"], ["1", "35360"], ["10", "34117"]]
    scroll = np.mean([scores["cases"][case]["score"] for case in ("0", "10")])
    assert rows[4][:5] == ["mean", "of", "2", "34117", f"{scroll:.4f}"]
    assert rows[6][:5] == ["mean", "of", "3", "all", f"{scores['mean']['score']:.4f}"]


@pytest.mark.parametrize("command", ["vesuvius", "liver"])
def test_help_says_what_it_does_and_shows_an_example(command, run):
    code, printed, said = run(command, "--help")
    assert code == 0
    assert f"python scripts/score.py {command} eval/predictions" in printed + said


@pytest.mark.slow
def test_a_missing_prediction_ends_the_command_with_one_line(folders):
    Path(folders[0], "1.tif").unlink()
    ended = subprocess.run([sys.executable, SCRIPT, "vesuvius", *folders], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "1.tif" in lines[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t: (p / "10.tif").unlink(), "no prediction"),
        (lambda p, t: write_volume(p / "0.tif", prediction()[1:], np.eye(4)), r"shape \(11, 14, 16\)"),
        (lambda p, t: write_volume(t / "0.tif", label() * 3, np.eye(4)), "label values 0, 3, 6, expected only 0, 1, 2"),
        (
            lambda p, t: write_volume(p / "0.tif", prediction() * np.arange(16, dtype=np.uint8), np.eye(4)),
            "a mask, no pro",
        ),
        (lambda p, t: (p / "0.tif").write_bytes((p / "0.tif").read_bytes()[:200]), "0.tif"),
        (lambda p, t: [file.unlink() for file in t.iterdir()], "no volume"),
        (lambda p, t: p.rename(p.with_name("elsewhere")), "no such folder"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(folders, spoil, message):
    spoil(*map(Path, folders))
    with pytest.raises(DataError, match=message):
        score_folders(*folders, parts=CHEAP)


def test_without_a_table_of_scrolls_there_are_no_means_of_scrolls(folders):
    Path(folders[1]).with_name("train.csv").unlink()
    _, table = score_folders(*folders, parts=CHEAP)
    assert len(table.splitlines()) == 1 + 3 + 1


def test_undefined_values_are_null_in_the_json(tmp_path, capsys):
    show = runpy.run_path(str(SCRIPT))["_show"]
    show({"a": {"b": float("nan"), "c": 1.5}, "d": None}, "table", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": {"b": None, "c": 1.5}, "d": None}
    assert capsys.readouterr().out.startswith("table\n")
