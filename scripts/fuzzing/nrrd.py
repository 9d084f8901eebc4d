"""Damaged NRRD files, compared with SimpleITK."""

import gzip
from functools import partial
from pathlib import Path

import numpy as np

from .campaign import Format
from .text_headers import HEADERS, change_line, make, ours, theirs

_VALUES = {
    "type": ["short", "unsigned short", "int16", "uchar", "float", "double", "long long", "uint64_t", "block", "SHORT"],
    "dimension": ["2", "3", "4", "0", "-1", "x"],
    "sizes": ["9 8 7", "7 8 9", "8 9 7", "9 8 6", "9 8 8", "9 0 7", "9 8", "-9 8 7", "99999999 99999 9", "504 1 1"],
    "space": [
        *("left-posterior-superior", "RAS", "left-anterior-superior", "LAS", "LPS", "scanner-xyz", "right-up"),
        "3D-right-handed",
    ],
    "space dimension": ["3", "2", "4"],
    "space directions": [
        *("(1,0,0) (0,2,0) (0,0,3)", "(0,0,1) (2,0,0) (0,3,0)", "(1,0,0) (0.3,2,0) (0,0,3)", "(1,0,0) (1,0,0) (0,0,3)"),
        *("(0,0,0) (0,2,0) (0,0,3)", "(-1,0,0) (0,2,0) (0,0,3)", "(1,0,0) (0,2,0)", "none (0,2,0) (0,0,3)", "(1,0,x)"),
        *("(1,0) (0,2) (0,0)", "(nan,0,0) (0,2,0) (0,0,3)"),
    ],
    "space origin": ["(1,2,3)", "(0,0,0)", "(1,2)", "1 2 3", "(x,y,z)"],
    "space units": ['"mm" "mm" "mm"', '"um" "um" "um"'],
    "spacings": ["1 2 3", "-1 2 3", "nan nan nan", "0 1 1", "1 2"],
    "axis mins": ["5 6 7", "nan nan nan"],
    "kinds": [
        *("domain domain domain", "space space space", "vector domain domain", "domain domain time", "domain domain"),
        *("list domain domain", "??? ??? ???", "none none none", "domain domain RGB-color"),
    ],
    "endian": ["little", "big", "middle", "LITTLE"],
    "encoding": ["raw", "gzip", "gz", "bzip2", "ascii", "txt", "hex", "zip"],
    "byte skip": ["0", "4", "-1", "-2"],
    "line skip": ["0", "1", "-1"],
    "data file": ["none.raw", "LIST", "a%02d.raw 0 6 1"],
    "measurement frame": ["(1,0,0) (0,1,0) (0,0,1)"],
    "content": ["anything: at := all"],
    "old min": ["3"],
    "nonsense": ["1"],
}
_GEOMETRY = "space: {}\nspace directions: (0,0.8,0) (0,0,-2.5) (0.7,0.1,0)\nspace origin: (-30,12,400.5)\n"


def _make(folder: Path, rng: np.random.Generator) -> list[Path]:
    make(folder, rng, ".nrrd")
    voxels = rng.integers(-100, 100, 504).astype("<i2").tobytes()
    streams = gzip.compress(voxels[:300]) + gzip.compress(voxels[300:])
    head = "type: short\ndimension: 3\nendian: little\nsizes: 9 8 7\n"
    for space, encoding in (("LPS", "raw"), ("RAS", "gzip"), ("left-anterior-superior", "raw"), ("LAS", "gzip")):
        text = f"NRRD0004\n# a comment\n{head}encoding: {encoding}\n{_GEOMETRY.format(space)}a:=b: c\n\n"
        (folder / f"by_hand_{space}.nrrd").write_bytes(text.encode() + (voxels if encoding == "raw" else streams))
    text = "NRRD0005\ntype: short\ndimension: 4\nendian: little\nsizes: 1 9 8 7\nencoding: raw\nspace: LPS\n"
    text += "kinds: list domain domain domain\nspace directions: none (1,0,0) (0,2,0) (0,0,3)\n\n"
    (folder / "frame.nrrd").write_bytes(text.encode() + voxels)
    (folder / "pair").mkdir()
    (folder / "pair" / "a.raw").write_bytes(voxels)
    text = f"NRRD0001\n{head}spacings: 1 2 3\nencoding: raw\ndata file: a.raw\n"
    (folder / "pair" / "a.nrrd").write_text(text, newline="\r\n")
    return sorted(folder.iterdir())


FORMAT = Format("nrrd", _make, partial(change_line, values=_VALUES, separator=": "), ours, theirs, headers=HEADERS)
