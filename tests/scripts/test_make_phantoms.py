"""The command line that makes phantoms, run as a user runs it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.phantoms import scroll_phantom

from custom.errors import DataError

NUMBERS = ("n_train", "n_test")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_phantoms.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """The script in this process, which has loaded the slow libraries already: exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        except DataError as error:  # what the hook of custom does
            code = f"error: {error}"
        out, err = capsys.readouterr()
        if isinstance(code, str):  # what the interpreter does
            code, err = 1, f"{err}{code}\n"
        return code, out, err

    return run


@pytest.mark.slow
def test_a_process_of_its_own_makes_scrolls_from_any_folder(tmp_path):
    arguments = [
        "scroll",
        "--output",
        "here/data",
        "--n_train=1",
        "--n_test=1",
        "--size=32",
        "--pitch",
        "10",
        "--ignore",
        "0",
    ]
    result = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Phantoms are in here/data"
    assert "2/2" in result.stderr  # progress
    for name in ("train_images/1000.tif", "train_labels/1000.tif", "test_labels/1500.tif", "train.csv"):
        assert (tmp_path / "here" / "data" / name).stat().st_size


def test_makes_abdomens_and_says_where(run, tmp_path):
    code, out, _ = run("abdomen", "--output", tmp_path, "--n_train=1", "--n_test=1", "--size=32", "--slices=4")
    assert code == 0
    assert out.splitlines()[-1] == f"Phantoms are in {tmp_path}"
    for name in ("volume-000", "segmentation-000", "test/volume-500", "test/segmentation-500"):
        assert (tmp_path / f"{name}.nii.gz").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "8"], "size must be at least 32 pixels, got 8"),
        (["--size", "big"], "size: found 'big', expected a whole number"),
        (["--n_train", "1.5"], "n_train: found 1.5, expected a whole number"),
        (["--n_train", "0"], "n_train must be 1 to 500"),
        (["--n_trian", "3"], "--n_trian: found no such option, expected --n_train"),
    ],
)
def test_bad_arguments_make_nothing(run, tmp_path, arguments, message):
    code, _, err = run("abdomen", "--output", tmp_path / "data", *arguments)
    assert code != 0
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "data").exists()


def test_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run("abdomen", "--output", tmp_path / "file" / "data", "--size=32", "--slices=4")
    assert code != 0
    assert err.startswith(f"error: {tmp_path / 'file' / 'data'}: found ")
    assert err.rstrip().endswith("expected a folder that can be written")
    assert len(err.splitlines()) == 1


def test_no_command(run):
    code, _, err = run()
    assert code != 0
    assert err == "error: found no command, expected one of scroll, abdomen, zarr; --help shows how\n"


def test_makes_a_scroll_in_zarr(run, tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs the extra scroll")
    code, out, _ = run("zarr", "--output", tmp_path / "made", "--size=20", "--seed=3")
    assert code == 0
    assert out.splitlines()[-1] == f"Phantoms are in {tmp_path / 'made'}"
    image, label = scroll_phantom(seed=3, index=0, size=20, ignore=0.0)
    assert (zarr.open_array(str(tmp_path / "made" / "scroll.zarr"), path="0")[...] == image).all()
    assert (zarr.open_array(str(tmp_path / "made" / "label.zarr"), path="0")[...] == label).all()
    code, _, err = run("zarr", "--output", tmp_path / "made", "--size=24")
    assert code != 0
    assert "found phantoms made with" in err


@pytest.mark.parametrize(("kind", "names"), [("scroll", NUMBERS), ("abdomen", NUMBERS), ("zarr", [])])
def test_help_names_every_argument_and_shows_an_example(run, kind, names):
    code, out, err = run(kind, "--help")
    assert code == 0
    text = out + err
    assert f"Example: python scripts/make_phantoms.py {kind} --output" in " ".join(text.split())
    for name in ("OUTPUT", "size", "seed", *names):
        assert name in text
