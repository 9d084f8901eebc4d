"""DICOM written byte by byte, so that no library's idea of the format is behind both sides of a test.

Encodings: DICOM PS3.5, section 7.1 (elements) and annex A (transfer syntaxes); PS3.10, section 7.1 (files).
"""

import struct
import zlib
from pathlib import Path

import numpy as np

IMPLICIT, EXPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = f"{CT}.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"

TAGS = {
    "ImageType": (0x0008, 0x0008, "CS"),
    "SOPClassUID": (0x0008, 0x0016, "UI"),
    "SOPInstanceUID": (0x0008, 0x0018, "UI"),
    "Modality": (0x0008, 0x0060, "CS"),
    "SliceThickness": (0x0018, 0x0050, "DS"),
    "SeriesInstanceUID": (0x0020, 0x000E, "UI"),
    "InstanceNumber": (0x0020, 0x0013, "IS"),
    "ImagePositionPatient": (0x0020, 0x0032, "DS"),
    "ImageOrientationPatient": (0x0020, 0x0037, "DS"),
    "PlanePositionSequence": (0x0020, 0x9113, "SQ"),
    "PlaneOrientationSequence": (0x0020, 0x9116, "SQ"),
    "SamplesPerPixel": (0x0028, 0x0002, "US"),
    "PhotometricInterpretation": (0x0028, 0x0004, "CS"),
    "NumberOfFrames": (0x0028, 0x0008, "IS"),
    "Rows": (0x0028, 0x0010, "US"),
    "Columns": (0x0028, 0x0011, "US"),
    "PixelSpacing": (0x0028, 0x0030, "DS"),
    "BitsAllocated": (0x0028, 0x0100, "US"),
    "BitsStored": (0x0028, 0x0101, "US"),
    "HighBit": (0x0028, 0x0102, "US"),
    "PixelRepresentation": (0x0028, 0x0103, "US"),
    "RescaleIntercept": (0x0028, 0x1052, "DS"),
    "RescaleSlope": (0x0028, 0x1053, "DS"),
    "PixelMeasuresSequence": (0x0028, 0x9110, "SQ"),
    "PixelValueTransformationSequence": (0x0028, 0x9145, "SQ"),
    "SharedFunctionalGroupsSequence": (0x5200, 0x9229, "SQ"),
    "PerFrameFunctionalGroupsSequence": (0x5200, 0x9230, "SQ"),
    "PixelData": (0x7FE0, 0x0010, "OW"),
}


def slice_tags(plane, number=0, **changes):
    """Tags of a CT slice of HU, 3 mm times its number up; None takes a tag away."""
    tags = {
        "SOPClassUID": CT,
        "SOPInstanceUID": f"1.2.3.4.{number + 1}",
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "InstanceNumber": number + 1,
        "ImagePositionPatient": (-16, -20, 3 * number),
        "ImageOrientationPatient": (1, 0, 0, 0, 1, 0),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": plane.shape[-2],
        "Columns": plane.shape[-1],
        "PixelSpacing": (0.8, 0.7),  # from row to row, from column to column
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "PixelData": np.asarray(plane) + 1024,
    }
    return {name: value for name, value in {**tags, **changes}.items() if value is not None}


def write(path: Path, tags, syntax=EXPLICIT, preamble=True) -> Path:
    """Write tags as a file; arrays as 16 bits."""
    order = ">" if syntax == BIG else "<"
    body = encode(tags, order, explicit=syntax != IMPLICIT)
    if syntax == DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflate.compress(body) + deflate.flush()
        body += b"\0" * (len(body) % 2)
    if preamble:
        meta = _element(0x0002, 0x0010, "UI", _padded(syntax.encode(), b"\0"), "<", True)
        meta = _element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta)), "<", True) + meta
        body = b"\0" * 128 + b"DICM" + meta + body
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def encode(tags, order, explicit):
    """A data set; the value of a sequence is a list of such."""
    elements = sorted((TAGS[name], value) for name, value in tags.items())
    return b"".join(
        _element(group, element, kind, _value(kind, value, order, explicit), order, explicit)
        for (group, element, kind), value in elements
    )


def write_series(folder: Path, volume, changes=lambda k: {}, name="IM{:04d}.dcm", **options) -> Path:
    """A file for each plane (rows, columns) of HU; ``changes`` gives what differs in the tags of slice k."""
    for k, plane in enumerate(volume):
        write(folder / name.format(k), slice_tags(plane, k, **changes(k)), **options)
    return folder


def _value(kind, value, order, explicit):
    if kind == "SQ":
        items = (encode(item, order, explicit) for item in value)
        return b"".join(struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if kind == "US":
        return struct.pack(order + "H", value)
    if kind == "OW":
        return value if isinstance(value, bytes) else (np.asarray(value) & 0xFFFF).astype(order + "u2").tobytes()
    text = value if isinstance(value, str) else "\\".join(map(str, np.atleast_1d(value)))
    return _padded(text.encode(), b"\0" if kind == "UI" else b" ")


def _padded(value, filler):
    return value + filler * (len(value) % 2)


def _element(group, element, kind, value, order, explicit):
    head = struct.pack(order + "HH", group, element)
    if not explicit:
        return head + struct.pack(order + "I", len(value)) + value
    if kind in ("OW", "SQ"):
        return head + kind.encode() + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + kind.encode() + struct.pack(order + "H", len(value)) + value
