"""DICOM series and files: written by pydicom and imagecodecs, damaged tag by tag, and read independently.

pydicom provides the tags; pixels and geometry are computed here according to the standard, and GDCM decodes JPEG.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import SimpleITK
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame

from .campaign import Format, voxels_and_affine

_SHAPE = (4, 6, 9)
"""Slices, rows, columns."""
_CT, _ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
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
    made = []

    def series(
        name: str, change: Callable[[Dataset, int], Any] = lambda dataset, k: None, ending: str = ".dcm"
    ) -> None:
        for k, plane in enumerate(rng.integers(-1000, 1000, _SHAPE)):
            dataset = _slice(plane, k)
            change(dataset, k)
            _save(dataset, folder / name / f"{(k * 3) % 5}{ending}")
        made.append(folder / name)

    series("explicit")
    series("implicit", lambda dataset, k: _encode(dataset, uid.ImplicitVRLittleEndian), ending="")
    series("big_endian", lambda dataset, k: _encode(dataset, uid.ExplicitVRBigEndian))
    series("tilted", lambda dataset, k: dataset.update({"ImagePositionPatient": [-16, -20 + 1.1 * k, 3 * k]}))
    series("own_scales", lambda dataset, k: dataset.update({"RescaleSlope": k + 1, "RescaleIntercept": -100 * k}))
    series("fractions", lambda dataset, k: dataset.update({"RescaleSlope": "0.25"}))
    series("twelve_bits", lambda dataset, k: _twelve_bits(dataset, rng))
    series("oblique", _oblique)
    series("bytes", lambda dataset, k: _bytes(dataset))
    series("run_lengths", lambda dataset, k: dataset.compress(uid.RLELossless))
    for syntax in _JPEG:
        series(syntax.keyword, lambda dataset, k, syntax=syntax: _jpeg(dataset, syntax))
    made.append(_save(_slice(rng.integers(-1000, 1000, _SHAPE[1:]), 0), folder / "slice.dcm"))
    made.append(_save(_enhanced(rng.integers(-1000, 1000, _SHAPE)), folder / "frames.dcm"))
    return made


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Change one element of one file: its value, representation, length, or presence."""
    files = sorted(file for file in path.iterdir()) if path.is_dir() else [path]
    file = files[rng.integers(len(files))]
    data = file.read_bytes()
    elements = _elements(file)
    if not elements:
        file.write_bytes(data[: rng.integers(len(data))])
        return f"{file.name} cut off"
    tag, start, value, end, order, explicit = elements[rng.integers(len(elements))]
    kind = rng.choice(["text", "number", "kind", "length", "remove", "duplicate", "tag"])
    head, element = data[start:value], data[start:end]
    if kind == "text":
        text = str(rng.choice(_TEXTS)).encode("latin-1")
        text += b" " * (len(text) % 2)
        head = _with_length(head, len(text), order)
        element = head + text
    elif kind == "number" and end > value:
        element = head + rng.bytes(end - value)
    elif kind == "kind" and explicit:
        element = head[:4] + _VALUE_REPRESENTATIONS[rng.integers(len(_VALUE_REPRESENTATIONS))] + data[start + 6 : end]
    elif kind == "length":
        length = int(rng.choice([0, 1, 2, 7, 100, 0xFFFF, end - value + 2, max(end - value - 2, 0)]))
        element = _with_length(head, length, order) + data[value:end]
    elif kind == "remove":
        element = b""
    elif kind == "duplicate":
        element += element
    else:
        element = rng.bytes(4) + data[start + 4 : end]
    file.write_bytes(data[:start] + element + data[end:])
    return f"{file.name}: {kind} of {tag} ({pydicom.datadict.keyword_for_tag(tag)}) changed"


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels and affine, from pydicom's tags; JPEG-compressed pixels are decoded by GDCM.

    Raises:
        Exception: of any type, for a damaged file.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    tags = [pydicom.dcmread(file) for file in files]
    first = tags[0]
    stored = [_pixels(file, each) for file, each in zip(files, tags, strict=True)]
    if "SharedFunctionalGroupsSequence" in first:
        return _frames(first, stored[0])
    values = [
        plane * np.float64(each.get("RescaleSlope", 1)) + float(each.get("RescaleIntercept", 0))
        for each, plane in zip(tags, stored, strict=True)
    ]
    thickness = float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1)
    rows, columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    orientation = np.array(first.ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([each.ImagePositionPatient for each in tags], float)
    order = np.argsort(positions @ normal, kind="stable")
    step = (positions[order[-1]] - positions[order[0]]) / max(len(tags) - 1, 1)
    step = step if len(tags) > 1 else normal * thickness
    affine[:3, 3] = positions[order[0]]
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = orientation[:3] * columns, orientation[3:] * rows, step
    volume = np.concatenate([values[k] for k in order])
    return volume.T, np.diag([-1.0, -1, 1, 1]) @ affine


def _frames(tags: Dataset, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometry of a multi-frame file whose frames differ only in position and are in order."""
    shared = tags.SharedFunctionalGroupsSequence[0]
    scale = shared.PixelValueTransformationSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places = [each.PlanePositionSequence[0].ImagePositionPatient for each in tags.PerFrameFunctionalGroupsSequence]
    places = np.array(places, float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * columns, orientation[3:] * rows
    affine[:3, 2], affine[:3, 3] = (places[-1] - places[0]) / (len(places) - 1), places[0]
    values = stored * np.float64(scale.RescaleSlope) + float(scale.RescaleIntercept)
    return values.T, np.diag([-1.0, -1, 1, 1]) @ affine


def _pixels(file: Path, tags: Dataset) -> np.ndarray:
    """(frames, rows, columns) as stored, without unused bits."""
    shape = (int(tags.get("NumberOfFrames") or 1), tags.Rows, tags.Columns)
    if (
        tags.SamplesPerPixel != 1
        or tags.PhotometricInterpretation != "MONOCHROME2"
        or tags.BitsAllocated not in (8, 16)
    ):
        raise ValueError("no grey values")
    if tags.HighBit != tags.BitsStored - 1 or not 1 <= tags.BitsStored <= tags.BitsAllocated:
        raise ValueError("bits at another place")
    syntax, size = tags.file_meta.TransferSyntaxUID, tags.BitsAllocated // 8
    if syntax in _JPEG:
        return _by_gdcm(file).reshape(shape)
    data = tags.PixelData
    if syntax == uid.RLELossless:
        fragment = get_frame(data, 0, number_of_frames=1)
        raw = np.frombuffer(imagecodecs.dicomrle_decode(fragment, f"<u{size}"), f"<u{size}")
    else:
        if len(data) not in (np.prod(shape) * size, np.prod(shape) * size + np.prod(shape) * size % 2):
            raise ValueError("another length")
        raw = np.frombuffer(data, f"{'>' if syntax == uid.ExplicitVRBigEndian else '<'}u{size}", int(np.prod(shape)))
    values = raw.astype(np.int64).reshape(shape) & (2**tags.BitsStored - 1)
    if tags.PixelRepresentation == 1:
        values -= (values >> (tags.BitsStored - 1)) << tags.BitsStored
    return values


def _by_gdcm(file: Path) -> np.ndarray:
    """Stored values of a file, decoded in a separate process, since damaged files crash GDCM."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        values = pool.submit(_read_by_gdcm, str(file)).result()
    tags = pydicom.dcmread(file)
    # applied by GDCM
    return (values - float(tags.get("RescaleIntercept", 0))) / float(tags.get("RescaleSlope", 1))


def _read_by_gdcm(file: str) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file, SimpleITK.sitkFloat64))


def _slice(plane: np.ndarray, k: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = _CT, f"1.2.3.4.{k + 1}"
    dataset.Modality, dataset.SeriesInstanceUID, dataset.InstanceNumber = "CT", "1.2.3", k + 1
    dataset.SliceThickness = 3
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-16, -20, 3 * k], [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = plane.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelSpacing, dataset.RescaleIntercept, dataset.RescaleSlope = [0.8, 0.7], -1024, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = (plane + 1024).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    _encode(dataset, uid.ExplicitVRLittleEndian)
    return dataset


def _encode(dataset: Dataset, syntax: uid.UID) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()


def _twelve_bits(dataset: Dataset, rng: np.random.Generator) -> None:
    """With an overlay in the upper bits."""
    values = np.frombuffer(dataset.PixelData, "<u2") & 0xFFF
    dataset.PixelData = (values | rng.integers(0, 16, values.size) << 12).astype("<u2").tobytes()
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0


def _bytes(dataset: Dataset) -> None:
    values = np.frombuffer(dataset.PixelData, "<i2")
    dataset.PixelData = values.astype(np.uint8).tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0


def _oblique(dataset: Dataset, k: int) -> None:
    dataset.ImageOrientationPatient = [0.6, 0.8, 0, 0, 0, -1]
    dataset.ImagePositionPatient = [-16 - 0.8 * 3 * k, -20 + 0.6 * 3 * k, 5]


def _jpeg(dataset: Dataset, syntax: uid.UID) -> None:
    values = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns) & 0xFFF
    dataset.PixelData = encapsulate([_JPEG[syntax](np.ascontiguousarray(values))])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    if syntax == uid.JPEGLosslessSV1:
        dataset.BitsStored, dataset.HighBit = 16, 15
    _encode(dataset, syntax)


def _enhanced(volume: np.ndarray) -> Dataset:
    dataset = _slice(volume, 0)
    dataset.SOPClassUID, dataset.NumberOfFrames = _ENHANCED_CT, len(volume)
    place, measures, scale, shared = Dataset(), Dataset(), Dataset(), Dataset()
    place.ImageOrientationPatient, measures.PixelSpacing = dataset.ImageOrientationPatient, dataset.PixelSpacing
    measures.SpacingBetweenSlices = 3
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [place], [measures]
    shared.PixelValueTransformationSequence = [scale]
    frames = []
    for k in range(len(volume)):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-16, -20, 3 * k]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    return dataset


def _save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _elements(file: Path) -> list[tuple[Any, int, int, int, str, bool]]:
    """Tag, first byte, first byte of the value, end, byte order and whether the VR is explicit, for each element."""
    try:
        dataset = pydicom.dcmread(file, force=True)
    except Exception:
        return []
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in (None, uid.DeflatedExplicitVRLittleEndian):  # positions refer to the inflated data
        return []
    implicit, little = dataset.original_encoding
    found = []
    for element in dataset._dict.values():
        if getattr(element, "value_tell", 0) and getattr(element, "length", 0xFFFFFFFF) != 0xFFFFFFFF:
            long = not implicit and element.VR in ("OB", "OW", "SQ", "UN", "UT")
            start = element.value_tell - (12 if long else 8)
            end = element.value_tell + element.length
            found.append((element.tag, start, element.value_tell, end, "<" if little else ">", not implicit))
    return found


def _with_length(head: bytes, length: int, order: str) -> bytes:
    """First bytes of an element with another length of its value."""
    short = len(head) == 8 and head[4:6].isalpha()
    size = 2 if short else 4
    return head[:-size] + np.array(length % 2 ** (8 * size), f"{order}u{size}").tobytes()


FORMAT = Format(
    "dicom", make, mutate, voxels_and_affine, theirs, frozenset(["run_lengths", *(syntax.keyword for syntax in _JPEG)])
)
