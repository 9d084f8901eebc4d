"""What a campaign calls a finding, and a small share of every format's campaign."""

import os
import time

import numpy as np
import pytest

from scripts.fuzz_readers import fuzz_readers
from scripts.fuzzing import campaign
from scripts.fuzzing.campaign import MODULES, Format, load, run

from custom.errors import DataError


def make(folder, rng):
    path = folder / "a.bin"
    path.write_bytes(bytes(range(100)))
    return [path]


def mutate(content, rng):
    return b"\xff" + content[1:], "the first byte set"


def read(path):
    return (np.frombuffer(path.read_bytes(), np.uint8),)


def read_checked(path):
    if path.read_bytes() != bytes(range(100)):
        raise DataError.of(path, "other bytes", "0 to 99")
    return read(path)


def format_of(ours, theirs=read):
    return Format("tiff", make, mutate, ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"), [(read, read, 0), (read_checked, read, 20), (read_checked, read_checked, 20)]
)
def test_reading_alike_and_refusing_are_right(tmp_path, ours, theirs, refused):
    result = run(format_of(ours, theirs), 20, 0, tmp_path)
    assert (result.judged, result.refused, result.findings) == (21, refused, [])
    assert result.refused_alone == (refused if theirs is read else 0)
    assert {path.name for path in tmp_path.iterdir()} >= {"whole", "messages.txt"}


def wrong(path):
    return (np.minimum(*read(path), 200),)


def reads_damage(path):  # which the other reader refuses
    return read(path)


def refuses_in_two_lines(path):
    raise DataError(f"{path}:\nno")


def names_no_file(path):
    raise DataError("no")


def names_file(path):
    raise DataError.of(path, "no", "yes")


def fails(path):
    raise KeyError("x")


def crashes(path):
    os._exit(3)


def hangs(path):
    time.sleep(60)


@pytest.mark.parametrize(
    ("ours", "theirs", "problem"),
    [
        (wrong, read, "array 0: 1 of 100 values differ, at (0,) 200 instead of 255"),
        (reads_damage, read_checked, "array 0: 1 of 100 values differ, at (0,) 255 instead of 0"),
        (refuses_in_two_lines, read, "a refusal that is not one line with the path"),
        (names_no_file, read, "a refusal that is not one line with the path"),
        (fails, read, "KeyError: 'x'"),
        (crashes, read, "the process ended with 3"),
        (hangs, read, "more than 0.2 s"),
    ],
)
def test_anything_else_is_a_finding(tmp_path, monkeypatch, ours, theirs, problem):
    monkeypatch.setattr(campaign, "_SECONDS", 0.2 if ours is hangs else 30)
    # The number of a mutation that the format itself makes.
    number = next(k for k in range(1, 20) if np.random.default_rng([0, k]).random(2)[1] < 0.5)
    result = run(format_of(ours, theirs), 0, 0, tmp_path, only=number)
    (found,) = result.findings
    assert found.what == "a.bin, the first byte set" and problem in found.problem
    assert found.path.read_bytes()[0] == 255
    assert f"--seed 0 --only {number}" in str(result)


def test_a_whole_file_that_is_refused_is_a_finding(tmp_path):
    (found,) = run(format_of(names_file), 3, 0, tmp_path).findings
    assert (found.number, found.what, found.problem) == (0, "a.bin, whole", "a whole file is refused")


def test_coded_files_are_changed_in_their_headers_alone(tmp_path):
    result = run(Format("tiff", make, mutate, fails, read, frozenset(["a.bin"])), 5, 0, tmp_path)
    assert [found.what for found in result.findings[1:]] == ["a.bin, the first byte set"] * 5


def test_the_campaign_goes_on_after_a_crash(tmp_path):
    result = run(format_of(crashes), 3, 0, tmp_path)
    assert [found.number for found in result.findings] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", MODULES)
def test_damaged_files_are_read_exactly_or_refused(tmp_path, name):
    try:
        format = load(name)
    except ImportError as error:
        pytest.skip(f"{error}")
    result = run(format, 30, 0, tmp_path)
    assert not result.findings, str(result)


def test_the_command_line_refuses_an_unknown_format():
    with pytest.raises(SystemExit, match="found the format 'jpeg', expected some of tiff"):
        fuzz_readers("jpeg")
