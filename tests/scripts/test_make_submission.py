import csv
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from custom.data.writing import write_volume

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_submission.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_options_reach_the_writer(script, tmp_path):
    label = np.zeros((5, 7, 2), np.uint8)
    label[3, 1, 1] = 2
    write_volume(tmp_path / "p" / "volume-2.nii.gz", label)
    output = tmp_path / "submission.csv"
    template = "{number:03d}-{slice}"
    script["liver"](str(tmp_path / "p"), str(output), id_template=template, first_slice=1, transpose=True)
    with output.open(newline="") as stream:
        # counted down the columns of the transposed slice: 3 columns of 7 rows, then the second row
        assert list(csv.reader(stream)) == [["id", "rle"], ["002-1", "1 0"], ["002-2", "23 1"]]


def test_a_zip_is_written(script, tmp_path, capsys):
    write_volume(tmp_path / "p" / "7.tif", np.ones((2, 3, 4), np.uint8))
    script["vesuvius"](str(tmp_path / "p"), str(tmp_path / "submission.zip"))
    assert (tmp_path / "submission.zip").is_file()
    assert "1 volumes; decoded, equal" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["liver", "vesuvius"])
def test_help_says_what_it_does_and_shows_an_example(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), command, "--help"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    text = " ".join("".join(capsys.readouterr()).split())
    assert f"Example: python scripts/make_submission.py {command} eval/predictions" in text
    assert "--output" in text and "PREDICTIONS" in text


@pytest.mark.slow
def test_command_line_fails_with_one_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "liver", str(tmp_path), "--output", str(tmp_path / "submission.csv")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.strip().startswith(f"error: {tmp_path}: found no volume, expected files ending in")
    assert len(process.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
