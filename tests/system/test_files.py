"""A reader sees the old file or the new one, never half of one."""

import pytest

from custom.system.files import dispensable, write_whole


def test_makes_the_folder_and_leaves_nothing_else(tmp_path):
    path = write_whole(tmp_path / "a" / "b.txt", lambda file: file.write_text("whole"))
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")

    def fail(file):
        file.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.txt"]


def test_what_is_dispensable_costs_a_warning(tmp_path, caplog):
    def full(_):
        raise OSError(28, "No space left on device")

    with dispensable(tmp_path / "curves.png"):
        write_whole(tmp_path / "curves.png", full)
    assert f"{tmp_path / 'curves.png'}: not written ([Errno 28] No space left on device)" in caplog.text
    with pytest.raises(ValueError, match="ours"), dispensable(tmp_path):
        raise ValueError("ours")
