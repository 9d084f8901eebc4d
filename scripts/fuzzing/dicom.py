"""DICOM series and files: written by pydicom, damaged tag by tag, and read beside GDCM.

GDCM gives the tags and the pixels of each file; the geometry is worked out here once more, from its texts. It runs in
a process of its own for each file or folder, since some damaged ones crash it.
"""

import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from custom.data import read_volume

from .campaign import Format

_SHAPE = (4, 6, 9)
"""Slices, rows, columns."""
_CT, _ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
_TEXTS = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "1e9",
    "nan",
    "1\\2",
    "1\\0\\0\\0\\0\\-1",
    "0.8\\0.7",
    "MONOCHROME1",
    "1.2.3",
    "\xff",
)
_VALUE_REPRESENTATIONS = (b"US", b"SS", b"UL", b"DS", b"IS", b"UI", b"OB", b"OW", b"SQ", b"UN", b"LO", b"UT", b"??")


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Series in folders, and single files, in every encoding of which GDCM and pydicom decode the same voxels."""
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
    series("deflated", lambda dataset, k: _encode(dataset, uid.DeflatedExplicitVRLittleEndian))
    series("run_length", lambda dataset, k: dataset.compress(uid.RLELossless, generate_instance_uid=False))
    series("tilted", lambda dataset, k: dataset.update({"ImagePositionPatient": [-16, -20 + 1.1 * k, 3 * k]}))
    series("own_scales", lambda dataset, k: dataset.update({"RescaleSlope": k + 1, "RescaleIntercept": -100 * k}))
    series("fractions", lambda dataset, k: dataset.update({"RescaleSlope": "0.25"}))
    series("twelve_bits", lambda dataset, k: _twelve_bits(dataset, rng))
    series("without_places", _without_place)
    made.append(_save(_slice(rng.integers(-1000, 1000, _SHAPE[1:]), 0), folder / "slice.dcm"))
    made.append(_save(_enhanced(rng.integers(-1000, 1000, _SHAPE)), folder / "frames.dcm"))
    return made


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Change one element of one file: its value, its kind, its length, or whether it is there."""
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


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine."""
    volume = read_volume(path)
    return volume.array, volume.affine


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine by GDCM.

    Raises:
        RuntimeError: GDCM cannot read it, or crashes.
    """
    _load_itk()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = pickle.dumps(_by_gdcm(path))
        except BaseException:  # whatever it is, the parent must not go on twice
            answer = b""
        with os.fdopen(sender, "wb") as stream:
            stream.write(answer)
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer:
        raise RuntimeError(f"{path}: not read by GDCM")
    return pickle.loads(answer)


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
    """With an overlay in the bits above."""
    values = np.frombuffer(dataset.PixelData, "<u2") & 0xFFF
    dataset.PixelData = (values | rng.integers(0, 16, values.size) << 12).astype("<u2").tobytes()
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0


def _without_place(dataset: Dataset, k: int) -> None:
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient


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
    """Tag, first byte, first byte of the value, end, byte order and whether the kind is written, of each element."""
    try:
        dataset = pydicom.dcmread(file, force=True)
    except Exception:
        return []
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in (None, uid.DeflatedExplicitVRLittleEndian):  # positions are those after inflating
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
    """The first bytes of an element with another length of its value."""
    short = len(head) == 8 and head[4:6].isalpha()
    return (
        head[:-2] + np.array(length & 0xFFFF, f"{order}u2").tobytes()
        if short
        else (head[:-4] + np.array(length, f"{order}u4").tobytes())
    )


@cache
def _load_itk() -> None:
    """Here, and not in each of the processes."""
    import itk

    for dimension in (2, 3):
        _ = itk.ImageFileReader[itk.Image[itk.D, dimension]].New(), itk.GDCMImageIO.New(), itk.array_from_matrix


def _by_gdcm(path: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    slices = [_slice_by_gdcm(file) for file in files]
    pixels = [array for array, _ in slices]
    if len(files) == 1 and len(pixels[0]) > 1:
        return _frames_by_gdcm(path, pixels[0])
    tags = [tags for _, tags in slices]
    spacing = _numbers(tags[0], "0028|0030") or [1.0, 1.0]
    thickness = (_numbers(tags[0], "0018|0088") or _numbers(tags[0], "0018|0050") or [1.0])[0]
    affine = np.eye(4)
    if all(_numbers(each, "0020|0032") and _numbers(each, "0020|0037") for each in tags):
        orientation = np.array(_numbers(tags[0], "0020|0037"))
        normal = np.cross(orientation[:3], orientation[3:])
        positions = np.array([_numbers(each, "0020|0032") for each in tags])
        order = np.argsort(positions @ normal, kind="stable")
        step = (positions[order[-1]] - positions[order[0]]) / max(len(tags) - 1, 1)
        step = step if len(tags) > 1 else normal * thickness
        affine[:3, 3] = positions[order[0]]
    else:
        orientation = np.array([1.0, 0, 0, 0, 1, 0])
        order = np.argsort([_numbers(each, "0020|0013")[0] for each in tags], kind="stable")
        step = np.array([0, 0, thickness])
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = orientation[:3] * spacing[1], orientation[3:] * spacing[0], step
    volume = np.concatenate([pixels[k] for k in order])
    return volume.T, np.diag([-1.0, -1, 1, 1]) @ affine


def _slice_by_gdcm(file: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Pages, rows and columns of real values, and tags as texts."""
    import itk

    codec = itk.GDCMImageIO.New()
    codec.SetFileName(str(file))
    codec.ReadImageInformation()
    if codec.GetNumberOfComponents() != 1:
        raise ValueError("in colour")
    image = itk.imread(str(file), itk.D, imageio=codec)
    array = itk.array_from_image(image)
    tags = {key: value for key, value in dict(image).items() if isinstance(value, str)}
    return array if array.ndim == 3 else array[None], tags


def _frames_by_gdcm(path: Path, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import itk

    image = itk.imread(str(path), itk.D, imageio=itk.GDCMImageIO.New())
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.asarray(image.GetSpacing())
    affine[:3, 3] = np.asarray(image.GetOrigin())
    return array.T, np.diag([-1.0, -1, 1, 1]) @ affine


def _numbers(tags: dict[str, str], tag: str) -> list[float]:
    return [float(text) for text in tags.get(tag, "").split("\\") if text.strip()]


FORMAT = Format("dicom", make, mutate, ours, theirs)
