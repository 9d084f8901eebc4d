"""A user's bad file ends in one line and exit code 1; a bug keeps its traceback."""

import subprocess
import sys

import pytest

from custom.errors import DataError, find_data_error


def run(code: str, repository) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository)


def test_names_file_found_and_expected():
    assert str(DataError.of("a.nii", "4 frames", "1")) == "a.nii: found 4 frames, expected 1"


def test_found_behind_other_errors():
    error = DataError("x")
    try:
        try:
            raise error
        except DataError as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        assert find_data_error(outer) is error
    assert find_data_error(RuntimeError("alone")) is None


DIRECT = "raise DataError('a.tif: found 0 bytes, expected pages')"
WRAPPED = f"""
try:
    {DIRECT}
except Exception as error:
    raise RuntimeError('as the config parser does') from error
"""


@pytest.mark.parametrize("raising", [DIRECT, WRAPPED])
def test_shown_as_one_line(raising, request):
    done = run(f"from custom import DataError\n{raising}", request.config.rootpath)
    assert done.returncode == 1
    assert done.stderr == "error: a.tif: found 0 bytes, expected pages\n"


def test_other_errors_keep_their_traceback(request):
    done = run("import custom\nraise KeyError('bug')", request.config.rootpath)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "KeyError: 'bug'" in done.stderr


def test_what_is_quoted_from_a_damaged_file_stays_on_one_line():
    text = str(DataError.of("a  b.dcm", "HighBit US\x00\x1b[31m\r\n" + "x" * 5000, "15"))
    assert text.startswith("a  b.dcm: found HighBit US  [31m") and text.endswith("x..., expected 15")
    assert text.isprintable() and len(text) < 1100
