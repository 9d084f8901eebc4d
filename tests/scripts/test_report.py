"""The report says what lies in the folders of runs, and whether the goals were reached."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from scripts.report import report
from scripts.reports.page import page
from scripts.reports.pictures import learning_curves
from scripts.reports.runs import comparable, differing, load_runs, spread

METRICS = "epoch,step,seconds,learning_rate,train_loss,dice\n1,10,5.0,0.1,0.9,0.25\n2,20,9.0,0.1,0.8,0.5\n"
CASES = "case,dice,hd95\na,0.5,3\nb<i>,0.7,\n"


@pytest.fixture
def runs(tmp_path):
    training, held_out = tmp_path / "model" / "training", tmp_path / "model" / "held_out"
    (held_out / "panels").mkdir(parents=True)
    training.mkdir()
    (training / "metrics.csv").write_text(METRICS)
    (held_out / "cases.csv").write_text(CASES)
    Figure().savefig(held_out / "panels" / "a.png")
    return training, held_out


def make_training(folder, *, cases="case,dice\na,0.5\nb,0.75\n", dice=(0.25, 0.5), **changed):
    """What a training with all that the report reads."""
    (folder / "panels").mkdir(parents=True)
    configuration = {
        "learning_rate": 0.1,
        "patch_size": [8, 8],
        "output_dir": str(folder),
        "validate": {"key_metric": {"dice": {"_target_": "x"}}},
        "transforms": [{"_target_": "Flip", "prob": 0.5}],
        **changed,
    }
    record = {
        "started": "2026-01-02T03:04:05+0000",
        "command": ["python", "-m", "monai.bundle", "run", "--config_file", "['a', 'b']"],
        "commit": "0123456789abcdef+changes",
        "versions": {"torch": "2.13.0"},
        "device": "a card",
        "ranks": 1,
        "configuration": configuration,
        "settings": {key: configuration[key] for key in ("learning_rate", "patch_size")},
        "cases": {"training": [{"id": "c"}], "validation": [{"id": "a"}, {"id": "b"}]},
    }
    (folder / "run.json").write_text(json.dumps(record))
    rows = [f"{n},{10 * n},{60 * n},0.1,{1 / n},{0.5 * n},0.25,{n},{score}\n" for n, score in enumerate(dice, start=1)]
    head = "epoch,step,seconds,learning_rate,train_loss,seconds_per_step,data_wait,memory_gib,dice\n"
    (folder / "metrics.csv").write_text(head + "".join(rows))
    (folder / "cases.csv").write_text(cases)
    Figure().savefig(folder / "panels" / "a.png")
    return folder


class Tables(HTMLParser):
    """The text of all cells, by table and row."""

    def __init__(self, text):
        super().__init__()
        self.tables = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, _):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


def table(text, title):
    """The first table below a title."""
    return Tables(text.split(f"<h3>{title}</h3>")[1]).tables[0]


@pytest.mark.slow
def test_page_and_table(request, runs, tmp_path):
    file = tmp_path / "out" / "report.html"
    command = [sys.executable, "scripts/report.py", *map(str, runs), f"--output={file}"]
    done = subprocess.run(
        [*command, "--goals={'held_out/dice': 0.6}"], cwd=request.config.rootpath, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("held_out"))
    assert row == ["held_out", "dice", "0.600", "0.500", "0.700", "2", "0.6", "met"]
    text = file.read_text()
    assert text.count("data:image/png;base64,") == 2  # curves of one run, a panel of the other
    assert "b&lt;i&gt;" in text and "b<i>" not in text
    assert set(re.findall(r'(?:src|href)="(\w+):', text)) == {"data"} and "http" not in text  # nothing is fetched


def test_the_page_is_made_anew(runs, tmp_path):
    texts = []
    for score in ("0.5", "0.6"):
        (runs[1] / "cases.csv").write_text(CASES.replace("0.5", score))
        os.utime(runs[1] / "cases.csv", (1e9, 1e9))
        report(str(runs[1]), output=str(tmp_path / "report.html"))
        texts.append((tmp_path / "report.html").read_text())
    assert texts[0] != texts[1]


@pytest.mark.slow
def test_a_run_is_found_by_its_name_alone(request, runs):
    """A time stamp, which Python takes for a number."""
    folder = runs[0].rename(runs[0].with_name("20260101_120000"))
    command = [sys.executable, str(request.config.rootpath / "scripts" / "report.py"), folder.name]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "report.html").exists()


@pytest.mark.parametrize(
    "goals", [{"held_out/dice": 0.61}, {"unknown": 0.1}, {"held_out/dice": 0.1, "unknown": 0.1}, {"dice": 0.1, "x": 0}]
)
def test_a_missed_goal_ends_with_1_and_the_page_is_written(runs, tmp_path, goals):
    file = tmp_path / "report.html"
    with pytest.raises(SystemExit, match="goals were missed"):
        report(*map(str, runs), output=str(file), goals=goals)
    assert file.exists()


def test_a_folder_without_a_run_is_named(tmp_path):
    line = f"error: {tmp_path}: found neither metrics.csv nor cases.csv, expected the folder of a run"
    with pytest.raises(SystemExit, match=f"^{re.escape(line)}$"):
        report(str(tmp_path))


def test_two_runs_side_by_side(tmp_path):
    a = make_training(tmp_path / "a" / "training")
    b = make_training(tmp_path / "b" / "training", learning_rate=0.2, dice=(0.75, 0.5), hypothesis="A larger <step>.")
    loaded = load_runs([a, b])
    text = page(loaded, [])
    assert table(text, "Settings that differ") == [["", "a", "b"], ["learning_rate", "0.1", "0.2"]]
    facts = {row[0]: row[1:] for row in table(text, "Runs")}
    assert facts[""] == ["a", "b"]
    assert facts["best score"] == ["0.500 dice (epoch 2)", "0.750 dice (epoch 1)"]
    assert {name: values[0] for name, values in facts.items() if name in ("epochs", "steps", "time", "started")} == {
        **{"epochs": "2", "steps": "20", "time": "2 min", "started": "2026-01-02 03:04"}
    }
    assert [facts[name][0] for name in ("seconds a step", "share of waiting for data", "memory")] == [
        *("0.75", "25.0%", "2.0 GiB")
    ]
    assert facts["commit"] == ["0123456789ab+changes"] * 2
    assert facts["torch"] == ["2.13.0"] * 2 and facts["validation volumes"] == ["2", "2"]
    assert facts["command"][0].startswith("python -m monai.bundle run --config_file '['")
    assert "A larger &lt;step&gt;." in text
    score = "0.625 ± 0.177 (0.500 to 0.750, n 2)"  # of 0.5 and 0.75
    assert table(text, "Scores") == [["", "a", "b"], ["dice", score, score]]
    panels = re.findall(r'<div class="panels">(.*?)</div>', text)
    assert [part.count("<figure>") for part in panels] == [2]
    assert text.count("data:image/png;base64,") == 3  # curves, two panels
    assert "same volumes" not in text


def test_runs_scored_on_other_volumes_are_told_apart(tmp_path):
    a = make_training(tmp_path / "a")
    b = make_training(tmp_path / "b", cases="case,dice\na,0.5\nz,0.75\n")
    assert "Not all were scored on the same volumes." in page(load_runs([a, b]), [])


def test_runs_without_a_common_score_are_told_about_one_after_the_other(tmp_path, runs):
    other = tmp_path / "other"
    other.mkdir()
    (other / "cases.csv").write_text("case,voi\na,0.5\n")
    loaded = load_runs([runs[0], other, runs[1]])
    names = [[run.name for run in group] for group in comparable(loaded)]
    assert names == [["other"], ["model/training", "model/held_out"]]
    assert page(loaded, []).count("<h2>") == 2


def test_curves_without_a_history_are_left_out(runs):
    training, held_out = load_runs(runs)
    assert learning_curves([held_out]) is None
    assert learning_curves([training, held_out]).startswith(b"\x89PNG")


def test_settings_that_differ():
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]) == {"b": [2, 3], "c": [None, 4]}


def test_spread_of_hand_computed_numbers():
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": 7**0.5, "lowest": 1.0, "highest": 6.0}
    assert spread([0.5]) == {"mean": 0.5, "sd": 0.0, "lowest": 0.5, "highest": 0.5}
