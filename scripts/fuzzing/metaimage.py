"""Damaged MetaImage files, compared with SimpleITK."""

import re
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK

from .campaign import Format, Values
from .text_headers import HEADERS, change_line, header_file, image, make, ours, theirs

_IDENTITY = "1 0 0 0 1 0 0 0 1"
_VALUES = {
    "ObjectType": ["Image", "Tube", "image", ""],
    "NDims": ["2", "3", "4", "1", "0", "-3", "three"],
    "BinaryData": ["True", "False", "maybe"],
    "BinaryDataByteOrderMSB": ["True", "False", "T", "1"],
    "ElementByteOrderMSB": ["True", "False"],
    "CompressedData": ["True", "False", "true", "1"],
    "CompressedDataSize": ["0", "-1", "100", "1000000"],
    "TransformMatrix": [_IDENTITY, "0 1 0 0 0 1 1 0 0", "1 0 0 0.3 1 0 0 0 1", "1 0 0 1 0 0 0 0 1", "1 0 0 1", "nan"],
    "Offset": ["1 2 3", "0 0 0", "1e3 -2 .5", "1 2", "x y z"],
    "Position": ["4 5 6"],
    "ElementSpacing": ["1 2 3", "-1 2 3", "0 1 1", "nan 1 1", "1 1", "1,5 1 1", "1 2 3 4"],
    "ElementSize": ["5 6 7"],
    "DimSize": ["9 8 7", "7 8 9", "8 9 7", "504 1 1", "9 8 6", "9 8 8", "9 0 7", "-9 8 7", "9 8", "99999999 99999 9"],
    "ElementType": [
        *("MET_CHAR", "MET_UCHAR", "MET_SHORT", "MET_USHORT", "MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG"),
        *("MET_LONG_LONG", "MET_FLOAT", "MET_DOUBLE", "MET_SHORT_ARRAY", "MET_STRING", "MET_NONE", "short"),
    ],
    "ElementNumberOfChannels": ["1", "2", "0", "3"],
    "ElementToIntensityFunctionSlope": ["1", "2"],
    "DistanceUnits": ["mm", "um", "cm"],
    "AnatomicalOrientation": ["RAI", "LPS", "???"],
    "HeaderSize": ["0", "-1", "4", "100"],
    "ElementDataFile": ["LOCAL", "local", "LIST", "none.raw", "a%02d.raw 1 2 1"],
    "Comment": ["anything = at : all"],
}


def _make(folder: Path, rng: np.random.Generator) -> list[Path]:
    make(folder, rng, ".mha")
    for name, compressed in (("pair", False), ("pair_compressed", True)):
        (folder / name).mkdir()
        SimpleITK.WriteImage(image(rng, "i2"), str(folder / name / "a.mhd"), useCompression=compressed)
    noted = image(rng, "i2")
    noted.SetMetaData("0008|0060", "CT")
    SimpleITK.WriteImage(noted, str(folder / "noted.mha"))
    voxels = rng.integers(-100, 100, 504).astype(">i2").tobytes()
    text = "NDims = 3\r\nDimSize = 9 8 7\r\nElementType = MET_SHORT\r\nElementByteOrderMSB = True\r\n"
    stream = zlib.compress(voxels)
    compression = f"CompressedData = True\r\nCompressedDataSize = {len(stream)}\r\n"
    for name, more, data in (("plain", "", voxels), ("big_compressed", compression, stream)):
        (folder / f"{name}.mha").write_bytes((text + more + "ElementDataFile = LOCAL\r\n").encode() + data)
    return sorted(folder.iterdir())


def _theirs(path: Path) -> Values:
    """SimpleITK's reading, except for files for which it returns uninitialised memory or crashes."""
    header, _, rest = header_file(path).read_bytes().partition(b"ElementDataFile")
    if re.search(rb"^CompressedData *= *[tT1]", header, re.MULTILINE):
        size = re.search(rb"^CompressedDataSize *= *(\d+)", header, re.MULTILINE)
        apart = path.is_dir() and next(path.glob("*.zraw"), None)
        if int(size[1]) != len(apart.read_bytes() if apart else rest.partition(b"\n")[2]):
            raise ValueError("another CompressedDataSize")
    if re.search(rb"^NDims *= *-", header, re.MULTILINE):
        raise ValueError("a negative number of dimensions")
    return theirs(path)


_CHANGE = partial(change_line, values=_VALUES, separator=" = ")
FORMAT = Format("metaimage", _make, _CHANGE, ours, _theirs, headers=HEADERS)
