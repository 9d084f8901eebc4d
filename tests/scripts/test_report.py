"""The report says what lies in the folders of runs, and whether the goals were reached."""

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

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


def report(request, *arguments):
    return subprocess.run(
        [sys.executable, "scripts/report.py", *map(str, arguments)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
    )


def test_page_and_table(request, runs, tmp_path):
    page = tmp_path / "out" / "report.html"
    done = report(request, *runs, f"--output={page}", "--goals={'held_out/dice': 0.6}")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("held_out"))
    assert row == ["held_out", "dice", "0.600", "0.500", "0.700", "2", "0.60", "met"]
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2  # curves of one run, a panel of the other
    assert "2 epochs, 20 steps, 9 s." in text
    assert "b&lt;i&gt;" in text and "b<i>" not in text
    assert 'src="data:' in text and "http" not in text  # nothing is fetched


@pytest.mark.parametrize("goals", ["{'held_out/dice': 0.61}", "{'unknown': 0.1}"])
def test_a_missed_goal_ends_with_1_and_the_page_is_written(request, runs, tmp_path, goals):
    page = tmp_path / "report.html"
    done = report(request, *runs, f"--output={page}", f"--goals={goals}")
    assert done.returncode == 1
    assert "goal was missed" in done.stderr
    assert page.exists()


def test_a_folder_without_a_run_is_named(request, tmp_path):
    done = report(request, tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: found neither metrics.csv nor cases.csv, expected the folder of a run\n"
