"""DICOM series and files: written by pydicom and imagecodecs, damaged tag by tag, and read independently.

pydicom provides the tags; pixels and geometry are computed here according to the standard, and GDCM decodes JPEG.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import SimpleITK
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame

from .campaign import Format, Values, voxels_and_affine

_SHAPE = (4, 6, 9)
"""Slices, rows, columns."""
_CT, _ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
_BIG_ENDIAN = uid.ExplicitVRBigEndian
_JPEG = {
    uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(plane, level=0, codecformat="j2k"),
}
"""Without loss, and how they are written."""
_TEXTS = (
    *("", "0", "-1", "1", "2", "1e9", "nan", "1\\2", "1\\0\\0\\0\\0\\-1", "0.8\\0.7", "1.2.3"),
    *("MONOCHROME1", "\xff"),
)
_VALUE_REPRESENTATIONS = (b"US", b"SS", b"UL", b"DS", b"IS", b"UI", b"OB", b"OW", b"SQ", b"UN", b"LO", b"UT", b"??")


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write series in folders, and single files, in every encoding for which GDCM and pydicom agree."""

    def series(name: str, slice_of: Callable[[np.ndarray, int], Dataset] = _dataset, ending: str = ".dcm") -> None:
        for k, plane in enumerate(rng.integers(0, 2000, _SHAPE).astype("<i2")):
            _save(slice_of(plane, k), folder / name / f"{(k * 3) % 5}{ending}")

    def twelve_bits(plane: np.ndarray, k: int) -> Dataset:
        """With an overlay in the upper bits."""
        return _dataset((plane | rng.integers(0, 16, plane.shape) << 12).astype("<u2"), k, bits=12)

    def run_lengths(plane: np.ndarray, k: int) -> Dataset:
        dataset = _dataset(plane, k)
        dataset.compress(uid.RLELossless)
        return dataset

    series("explicit")
    series("implicit", lambda plane, k: _dataset(plane, k, uid.ImplicitVRLittleEndian), ending="")
    series("big_endian", lambda plane, k: _dataset(plane.astype(">i2"), k, _BIG_ENDIAN))
    series("tilted", lambda plane, k: _dataset(plane, k, ImagePositionPatient=[-16, -20 + 1.1 * k, 3 * k]))
    series("own_scales", lambda plane, k: _dataset(plane, k, RescaleSlope=k + 1, RescaleIntercept=-100 * k))
    series("fractions", lambda plane, k: _dataset(plane, k, RescaleSlope="0.25"))
    series("twelve_bits", twelve_bits)
    turn = {"ImageOrientationPatient": [0.6, 0.8, 0, 0, 0, -1]}
    series("oblique", lambda plane, k: _dataset(plane, k, ImagePositionPatient=[-16 - 2.4 * k, 1.8 * k, 5], **turn))
    series("bytes", lambda plane, k: _dataset(plane.astype(np.uint8), k))
    series("run_lengths", run_lengths)
    for syntax in _JPEG:
        bits = 16 if syntax == uid.JPEGLosslessSV1 else 12
        series(syntax.keyword, lambda plane, k, syntax=syntax, bits=bits: _dataset(plane.view("<u2"), k, syntax, bits))
    _save(_dataset(rng.integers(0, 2000, _SHAPE[1:]).astype("<i2"), 0), folder / "slice.dcm")
    _save(_enhanced(rng.integers(0, 2000, _SHAPE).astype("<i2")), folder / "frames.dcm")
    return sorted(folder.iterdir())


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change one element: its tag, representation, length, value, or presence."""
    dataset = pydicom.dcmread(BytesIO(content))
    implicit, little = dataset.original_encoding
    elements = [
        each
        for each in dataset._dict.values()
        if isinstance(each, RawDataElement) and each.length != 0xFFFFFFFF  # encapsulated pixels
    ]
    element = elements[rng.integers(len(elements))]
    at, end = element.value_tell, element.value_tell + element.length
    long = not implicit and element.VR in ("OB", "OW", "SQ", "UN", "UT")
    start, size = at - (12 if long else 8), 4 if implicit or long else 2
    head, value = content[start : at - size], content[at:end]

    def sized(length: int) -> bytes:
        return head + (length % 256**size).to_bytes(size, "little" if little else "big")

    text = str(rng.choice(_TEXTS)).encode("latin-1")
    text += b" " * (len(text) % 2)
    length = int(rng.choice([0, 1, 2, 7, 100, 0xFFFF, len(value) + 2, max(len(value) - 2, 0)]))
    representation = _VALUE_REPRESENTATIONS[rng.integers(len(_VALUE_REPRESENTATIONS))]
    changes = {
        "text": sized(len(text)) + text,
        "number": content[start:at] + rng.bytes(len(value)),
        "representation": head[:4] + representation + content[start + 6 : end],
        "length": sized(length) + value,
        "removal": b"",
        "repetition": content[start:end] * 2,
        "tag": rng.bytes(4) + content[start + 4 : end],
    }
    what = str(rng.choice(list(changes)))
    changed = content[:start] + changes[what] + content[end:]
    return changed, f"{what} of {pydicom.datadict.keyword_for_tag(element.tag)} at byte {start}"


def theirs(path: Path) -> Values:
    """Return voxels and affine, from pydicom's tags; JPEG-compressed pixels are decoded by GDCM.

    Raises:
        Exception: of any type, for a damaged file.
    """
    files = sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    tags = [(file, pydicom.dcmread(file)) for file in files]
    planes = [plane for file, each in tags for plane in _pixels(file, each)]
    frames = [_tags_of_frame(each, k) for _, each in tags for k in range(int(each.get("NumberOfFrames") or 1))]
    slices = [
        plane * np.float64(frame.get("RescaleSlope", 1)) + float(frame.get("RescaleIntercept", 0))
        for plane, frame in zip(planes, frames, strict=True)
    ]
    positions = np.array([frame["ImagePositionPatient"] for frame in frames], float)
    first = frames[0]
    rows, columns = map(float, first["PixelSpacing"])
    across, down = np.array(first["ImageOrientationPatient"], float).reshape(2, 3)
    normal = np.cross(across, down)
    order = np.argsort(positions @ normal, kind="stable")
    step = normal * float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1)
    if len(slices) > 1:
        step = (positions[order[-1]] - positions[order[0]]) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, positions[order[0]]], axis=1)
    return np.stack([slices[k] for k in order]).T, np.diag([-1.0, -1, 1, 1]) @ affine


def _tags_of_frame(tags: Dataset, index: int) -> dict[str, Any]:
    """Values by keyword, of a frame's own groups first, then of those shared by all frames, then of the file."""
    own = tags.get("PerFrameFunctionalGroupsSequence", [])[index : index + 1]
    found = {element.keyword: element.value for element in tags if element.keyword != "PixelData"}
    for group in [*tags.get("SharedFunctionalGroupsSequence", []), *own]:
        for macro in group:
            found |= {element.keyword: element.value for element in macro.value[0]}
    return found


def _pixels(file: Path, tags: Dataset) -> np.ndarray:
    """(frames, rows, columns) as stored, without unused bits."""
    shape = (int(tags.get("NumberOfFrames") or 1), tags.Rows, tags.Columns)
    if (tags.SamplesPerPixel, tags.PhotometricInterpretation) != (1, "MONOCHROME2"):
        raise ValueError("no grey values")
    if tags.BitsAllocated not in (8, 16) or not 1 <= tags.HighBit + 1 == tags.BitsStored <= tags.BitsAllocated:
        raise ValueError("bits at another place")
    syntax, size = tags.file_meta.TransferSyntaxUID, tags.BitsAllocated // 8
    if syntax in _JPEG:
        return _by_gdcm(file, tags).reshape(shape)
    data = tags.PixelData
    if syntax == uid.RLELossless:
        data = imagecodecs.dicomrle_decode(get_frame(data, 0, number_of_frames=1), f"<u{size}")
    elif len(data) - np.prod(shape) * size not in (0, np.prod(shape) * size % 2):
        raise ValueError("another length")
    raw = np.frombuffer(data, f"{'>' if syntax == _BIG_ENDIAN else '<'}u{size}", int(np.prod(shape)))
    values = raw.astype(np.int64).reshape(shape) & (2**tags.BitsStored - 1)
    if tags.PixelRepresentation == 1:
        values -= (values >> (tags.BitsStored - 1)) << tags.BitsStored
    return values


def _by_gdcm(file: Path, tags: Dataset) -> np.ndarray:
    """Stored values of a file, decoded in a separate process, since damaged files crash GDCM."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        values = pool.submit(_read_by_gdcm, str(file)).result()
    # applied by GDCM
    return (values - float(tags.get("RescaleIntercept", 0))) / float(tags.get("RescaleSlope", 1))


def _read_by_gdcm(file: str) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file, SimpleITK.sitkFloat64))


def _dataset(
    values: np.ndarray, k: int, syntax: uid.UID = uid.ExplicitVRLittleEndian, bits: int | None = None, **tags: Any
) -> Dataset:
    """Slice k of a series, with values of type i2, u2 or u1 in the byte order of the syntax."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = _CT, f"1.2.3.4.{k + 1}"
    dataset.Modality, dataset.SeriesInstanceUID, dataset.InstanceNumber = "CT", "1.2.3", k + 1
    dataset.SliceThickness = 3
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-16, -20, 3 * k], [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelSpacing, dataset.RescaleIntercept, dataset.RescaleSlope = [0.8, 0.7], -1024, 1
    dataset.BitsAllocated, dataset.PixelRepresentation = 8 * values.itemsize, int(values.dtype.kind == "i")
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = encapsulate([_JPEG[syntax](values)]) if syntax in _JPEG else values.tobytes()
    dataset["PixelData"].VR = "OB" if syntax in _JPEG else "OW"
    dataset["PixelData"].is_undefined_length = syntax in _JPEG
    dataset.update(tags)
    return dataset


def _enhanced(values: np.ndarray) -> Dataset:
    """Return a file of several frames, which differ in their position."""
    shared = _group(
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        PixelMeasuresSequence={"PixelSpacing": [0.8, 0.7], "SpacingBetweenSlices": 3},
        PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
    )
    frames = [_group(PlanePositionSequence={"ImagePositionPatient": [-16, -20, 3 * k]}) for k in range(len(values))]
    dataset = _dataset(values, 0, SOPClassUID=_ENHANCED_CT, NumberOfFrames=len(values))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    return dataset


def _group(**macros: dict[str, Any]) -> Dataset:
    group = Dataset()
    for name, tags in macros.items():
        macro = Dataset()
        macro.update(tags)
        group.update({name: [macro]})
    return group


def _save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


FORMAT = Format(
    "dicom", make, mutate, voxels_and_affine, theirs, frozenset(["run_lengths", *(syntax.keyword for syntax in _JPEG)])
)
