"""What tells files apart, against hashlib and by hand."""

import hashlib
import os
import shutil

import pytest

from custom.system.identity import WHOLE, file_identity, sha256, weights_identity


def test_a_small_file_is_hashed_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    os.utime(path, ns=(0, 1_000_000_007))
    digest = hashlib.sha256(b"12345").hexdigest()
    assert file_identity(path) == {"size": 5, "mtime_ns": 1_000_000_007, "sha256": digest}
    assert sha256(path) == digest


@pytest.mark.parametrize("size", [0, 1, WHOLE - 1, WHOLE, WHOLE + 1, 9 * WHOLE + 3])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_head_and_end_count_and_of_small_files_everything(tmp_path, size, place):
    """The name and the time are the same; of a large file the middle is sampled only."""
    content = bytearray(size)
    path = tmp_path / "a"
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    before = file_identity(path)
    assert file_identity(path) == before
    if size:
        content[min(int(place * size), size - 1)] ^= 1
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    seen = size > 0 and (size <= WHOLE + 1 or place != 0.5)
    assert (file_identity(path) != before) == seen


@pytest.mark.parametrize("change", ["content", "time", "name", "added", "removed", "linked"])
def test_a_folder_is_all_of_its_files(tmp_path, change):
    folder, elsewhere = tmp_path / "series", tmp_path / "elsewhere"
    for place, name in ((folder, "1.dcm"), (folder / "below", "2.dcm"), (elsewhere, "3.dcm")):
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(name.encode())
        os.utime(place / name, (1e9, 1e9))
    (folder / "link").symlink_to(elsewhere)
    (folder / "below" / "loop").symlink_to(folder)
    before = file_identity(folder)
    assert before["size"] == 15
    if change == "content":
        (folder / "below" / "2.dcm").write_bytes(b"9.dcm")
        os.utime(folder / "below" / "2.dcm", (1e9, 1e9))
    elif change == "time":
        os.utime(folder / "1.dcm", (5e8, 5e8))
    elif change == "name":
        (folder / "1.dcm").rename(folder / "0.dcm")
    elif change == "added":
        (folder / "4.dcm").touch()
    elif change == "removed":
        (folder / "1.dcm").unlink()
    else:
        shutil.copyfile(folder / "1.dcm", elsewhere / "3.dcm")
        os.utime(elsewhere / "3.dcm", (1e9, 1e9))
    assert file_identity(folder) != before


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("h.mhd", "NDims = 3\nElementDataFile = h.raw\n"),
        ("h.mhd", "NDims = 3\r\nElementDataFile = h.raw\r\n"),
        ("h.mhd", "ElementDataFile = LIST\nh.raw\n"),
        ("h.nrrd", "NRRD0004\nsizes: 3\ndata file: h.raw\n\n"),
        ("h.nrrd", "NRRD0004\ndatafile: LIST\nh.raw\n"),
    ],
)
def test_a_header_is_taken_with_its_data(tmp_path, name, header):
    (tmp_path / name).write_bytes(header.encode())
    (tmp_path / "h.raw").write_bytes(b"123")
    before = file_identity(tmp_path / name)
    assert before["size"] == len(header) + 3
    (tmp_path / "h.raw").write_bytes(b"321")
    assert file_identity(tmp_path / name) != before
    (tmp_path / "h.raw").unlink()
    with pytest.raises(FileNotFoundError, match=r"h\.raw"):
        file_identity(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"), [("h.mhd", b"ElementDataFile = LOCAL\n\0\1"), ("h.nrrd", b"NRRD0004\n\ndata file: x\n")]
)
def test_data_within_the_header_are_no_other_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert file_identity(tmp_path / name)["sha256"] == hashlib.sha256(content).hexdigest()


def test_weights_are_known_by_their_content_alone(tmp_path):
    for name, content in (("a.pt", b"a"), ("b.pt", b"a"), ("c.pt", b"c")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (str(tmp_path / name) for name in ("a.pt", "b.pt", "c.pt"))
    assert weights_identity(a) == weights_identity([b]) == [hashlib.sha256(b"a").hexdigest()]
    assert weights_identity([a, c]) != weights_identity([c, a])
