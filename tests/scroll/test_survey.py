"""What is missing, counted by hand; what makes a scroll another one."""

import os
import shutil

import numpy as np
import pytest

from custom.errors import DataError
from custom.scroll import volume
from custom.scroll.ome_zarr import open_image
from custom.scroll.survey import survey

from .tiny_scroll import write_version_2

WHOLE = ((0, 16), (0, 16), (0, 16))


@pytest.fixture
def scroll(tmp_path):
    """64 chunks."""
    values = np.random.default_rng(0).integers(1, 255, (16, 16, 16)).astype(np.uint8)
    write_version_2(tmp_path / "scroll", values, 4)
    return tmp_path / "scroll"


def look(path, box=WHOLE):
    return survey(open_image(str(path)), box)


def test_a_whole_scroll_gives_no_line(scroll, caplog):
    found = look(scroll)
    assert (found.missing, found.looked_for, found.total) == (0, 64, 64)
    assert not caplog.records


def test_missing_chunks_give_one_line(scroll, caplog):
    shutil.rmtree(scroll / "0" / "1")
    assert look(scroll).missing == 16
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"{scroll}: 16 of 64 chunks are missing; they are read as 0"
    assert look(scroll, ((5, 9), (0, 4), (2, 3))).missing == 1  # of two: one in z 4 to 8, one in z 8 to 12
    assert caplog.records[1].getMessage() == f"{scroll}: 1 of 2 chunks are missing; they are read as 0"
    assert look(scroll, ((8, 16), (0, 16), (0, 16))).missing == 0
    assert len(caplog.records) == 2


def test_of_many_chunks_some_are_looked_for(scroll, caplog, monkeypatch):
    monkeypatch.setattr(volume, "LOOKED_FOR", 20)
    shutil.rmtree(scroll / "0" / "1")
    found = look(scroll)
    assert found.total == 64 and 10 < found.looked_for <= 20 and 0 < found.missing < found.looked_for
    line = f"{found.missing} of {found.looked_for} chunks looked for, of 64 in all, are missing"
    assert line in caplog.text


def test_a_scroll_without_any_chunk_is_refused(scroll, caplog):
    for folder in (scroll / "0").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with pytest.raises(DataError) as caught:
        look(scroll)
    assert str(caught.value) == (
        f"{scroll}: found not one of 64 chunks looked for, of 64 that the metadata promise, "
        "expected objects named as 0/0/0/0"
    )


def test_an_empty_part_of_a_scroll_is_not_refused(scroll, caplog):
    shutil.rmtree(scroll / "0" / "0")
    assert look(scroll, ((0, 4), (0, 16), (0, 16))).missing == 16
    assert "16 of 16 chunks are missing" in caplog.text


def test_identity_is_that_of_the_content_and_not_of_the_place(scroll, tmp_path):
    identity = look(scroll).identity
    assert look(scroll, ((0, 4), (0, 4), (0, 4))).identity == identity
    shutil.copytree(scroll, tmp_path / "moved", copy_function=shutil.copy2)
    assert look(tmp_path / "moved").identity == identity


def test_identity_tells_another_scroll_of_the_same_name(scroll):
    before, times = look(scroll).identity, {}
    for file in scroll.rglob("*"):
        times[file.relative_to(scroll)] = file.stat().st_mtime_ns
    chunk = scroll / "0" / "3" / "3" / "3"

    os.utime(chunk, (1.6e9, 1.6e9))  # older
    older = look(scroll).identity
    assert {key for key in before if older[key] != before[key]} == {"chunks"}

    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)  # of the same size, and of the same time as before
    os.utime(chunk, ns=(times[chunk.relative_to(scroll)],) * 2)
    other = look(scroll).identity
    assert {key for key in before if other[key] != before[key]} == {"content"}


def test_identity_tells_other_metadata(scroll):
    before = look(scroll).identity
    attributes = scroll / ".zattrs"
    attributes.write_text(attributes.read_text().replace("1.0", "2.0"))
    other = look(scroll).identity
    assert {key for key in before if other[key] != before[key]} == {"metadata"}
