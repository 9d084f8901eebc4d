"""One DICOM file: its frames with their tags, and their pixels as rescaled values.

pydicom reads the tags, and pixels that are uncompressed or run-length encoded; imagecodecs decodes the other encodings.
Only the stored bits of a pixel are used.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from ..errors import DataError

_CODECS = {
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit), imagecodecs.jpeg8_decode),
    **dict.fromkeys((uid.JPEGLossless, uid.JPEGLosslessSV1), imagecodecs.ljpeg_decode),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), imagecodecs.jpegls_decode),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), imagecodecs.jpeg2k_decode),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), imagecodecs.jpeg2k_decode),
}
_END = b"\xff\xd9"
"""End marker of every kind of JPEG."""
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless)
_MACROS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    "PixelValueTransformationSequence",
)
_KINDS = {
    **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"), "DS"),
    **dict.fromkeys(("SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept"), "DS"),
    "NumberOfFrames": "IS",
    **dict.fromkeys(("Rows", "Columns", "SamplesPerPixel", "PixelRepresentation"), "US"),
    **dict.fromkeys(("BitsAllocated", "BitsStored", "HighBit"), "US"),
}
_ORTHOGONAL = 1e-3
"""Allowed deviation of direction cosines from unit length and orthogonality."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice. Positions and spacings are in mm, LPS."""

    file: Path
    index: int
    of: int
    """Number of frames in the file."""
    shape: tuple[int, int]
    """Rows, columns."""
    position: np.ndarray
    """(3,) centre of the first pixel."""
    orientation: np.ndarray
    """(6,) direction of increasing column index, then of increasing row index."""
    spacing: np.ndarray
    """(2,) between rows, between columns."""
    thickness: float
    """Slice spacing, used for a single slice."""
    slope: float
    intercept: float
    modality: str
    unit: str
    bits: int
    signed: bool

    @property
    def name(self) -> str:
        """Path for messages."""
        return str(self.file.parent / self.short_name)

    @property
    def short_name(self) -> str:
        """Name for messages, without the folder."""
        return self.file.name if self.of == 1 else f"{self.file.name}, frame {self.index + 1}"

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest possible rescaled value."""
        lowest = -(2 ** (self.bits - 1)) if self.signed else 0
        ends = [bound * self.slope + self.intercept for bound in (lowest, lowest + 2**self.bits - 1)]
        return min(ends), max(ends)


def load(file: Path, *, pixels: bool) -> Any:
    """Return a ``pydicom.Dataset``, with or without pixels.

    Raises:
        DataError: the file is not DICOM, or damaged.
    """
    with reading(file, "an unreadable file"):
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
    if len(dataset) == 0:
        raise DataError.of(file, "no DICOM data", "a complete DICOM file")
    return dataset


def frames_of(file: Path, dataset: Any) -> list[Frame]:
    """Return the frames of a file by its tags; frames of a multi-frame object have their own tags.

    Raises:
        DataError: a tag is missing or invalid, or the pixels are not grey values.
    """
    with reading(file, "a tag that cannot be read"):
        _check_grey(file, dataset)
        count = int(dataset.get("NumberOfFrames") or 1)
        if count < 1:
            raise DataError.of(file, f"NumberOfFrames {count}", "at least one")
        if "ConcatenationUID" in dataset:
            raise DataError.of(file, "a part of a concatenation", "a whole multi-frame object")
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        if groups is not None and len(groups) != count:
            raise DataError.of(file, f"{len(groups)} functional groups", f"one for each of {count} frames")
        return [_frame(file, dataset, index, count) for index in range(count)]


@contextlib.contextmanager
def reading(file: Path, found: str) -> Iterator[None]:
    """Context in which every error becomes a :class:`DataError`, since damaged files raise any type.

    pydicom's warnings about values that violate the standard are not shown; relevant ones are checked here.
    """
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError.of(file, f"{found} ({reason})", "a complete DICOM file") from None
    finally:
        logger.disabled = disabled


def real_values(frames: Sequence[Frame]) -> np.ndarray:
    """Return the rescaled slices (slices, rows, columns), in the narrowest type for all possible values.

    Raises:
        DataError: the pixels are truncated, damaged or in an unsupported encoding.
    """
    values = np.empty((len(frames), *frames[0].shape), _type_for(frames))
    number = np.float64 if values.dtype.kind == "f" else np.int64
    file, stored = None, np.empty(0)
    for k, frame in enumerate(frames):
        if frame.file != file:
            file, stored = frame.file, _stored_values(frame)
        values[k] = stored[frame.index] * number(frame.slope) + number(frame.intercept)
    return values


def _check_grey(file: Path, dataset: Any) -> None:
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise DataError.of(file, "no Rows and Columns", "a complete DICOM image")
    samples, kind = dataset.get("SamplesPerPixel", 1), dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if samples != 1 or kind != "MONOCHROME2":
        raise DataError.of(file, f"{kind} of {samples} samples per pixel", "grey values, MONOCHROME2")
    allocated, stored, high = dataset.BitsAllocated, dataset.BitsStored, dataset.get("HighBit", dataset.BitsStored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        found = f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}"
        raise DataError.of(file, found, "8, 16 or 32 bits of which the lowest are stored")
    if dataset.PixelRepresentation not in (0, 1):
        raise DataError.of(file, f"PixelRepresentation {dataset.PixelRepresentation}", "0 or 1")
    if dataset.get("ModalityLUTSequence"):
        raise DataError.of(file, "a modality lookup table", "RescaleSlope and RescaleIntercept")


def _frame(file: Path, dataset: Any, index: int, count: int) -> Frame:
    own = []
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = dataset.get(name) or []
        group = groups[index if name.startswith("PerFrame") else 0] if len(groups) else {}
        own += [group.get(macro)[0] for macro in _MACROS if group.get(macro)]
    scopes = [*own, dataset]
    for scope in scopes:
        _check_representations(file, scope)
    slope = _number(file, scopes, "RescaleSlope", 1.0)
    if slope == 0:
        raise DataError.of(file, "RescaleSlope 0", "another slope")
    # A position shared by all frames of a file is not that of each frame.
    places = {
        "ImagePositionPatient": _numbers(file, scopes if count == 1 else own, "ImagePositionPatient", 3),
        "ImageOrientationPatient": _numbers(file, scopes, "ImageOrientationPatient", 6),
        "PixelSpacing": _numbers(file, scopes, "PixelSpacing", 2),
    }
    for tag, value in places.items():
        if value is None:
            name = file if count == 1 else f"{file}, frame {index + 1}"
            raise DataError.of(name, f"{tag} absent", "a slice with position, orientation and spacing")
    position, orientation, spacing = places.values()
    _check_orientation(file, orientation)
    if spacing.min() <= 0:
        raise DataError.of(file, f"PixelSpacing {spacing[0]:g} {spacing[1]:g}", "two lengths above 0")
    return Frame(
        file=file,
        index=index,
        of=count,
        shape=(int(dataset.Rows), int(dataset.Columns)),
        position=position,
        orientation=orientation,
        spacing=spacing,
        thickness=_thickness(file, scopes),
        slope=slope,
        intercept=_number(file, scopes, "RescaleIntercept", 0.0),
        modality=str(dataset.get("Modality") or ""),
        unit=str(_value(scopes, "RescaleType") or ""),
        bits=int(dataset.BitsStored),
        signed=bool(dataset.PixelRepresentation),
    )


def _check_representations(file: Path, scope: Any) -> None:
    """Raise for numbers with another value representation than the standard's, which would be misread."""
    for tag, kind in _KINDS.items():
        found = scope[tag].VR if tag in scope else kind
        if found != kind:
            raise DataError.of(file, f"{tag} as {found}", kind)


def _value(scopes: Sequence[Any], tag: str) -> Any:
    """Value of a tag in the innermost scope that has one."""
    values = (scope.get(tag) for scope in scopes)
    return next((value for value in values if value is not None and value != "" and value != []), None)


def _numbers(file: Path, scopes: Sequence[Any], tag: str, count: int) -> np.ndarray | None:
    value = _value(scopes, tag)
    if value is None:
        return None
    numbers = np.array(value, np.float64).reshape(-1)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DataError.of(file, f"{tag} {value}", f"{count} finite number{'s' * (count > 1)}")
    return numbers


def _number(file: Path, scopes: Sequence[Any], tag: str, default: float) -> float:
    numbers = _numbers(file, scopes, tag, 1)
    return default if numbers is None else float(numbers[0])


def _check_orientation(file: Path, cosines: np.ndarray) -> None:
    products = np.array([cosines[:3] @ cosines[:3], cosines[3:] @ cosines[3:], cosines[:3] @ cosines[3:]])
    if np.abs(products - [1, 1, 0]).max() > 2 * _ORTHOGONAL:
        found = f"ImageOrientationPatient {' '.join(f'{value:g}' for value in cosines)}"
        raise DataError.of(file, found, "two directions of length 1 at a right angle")


def _thickness(file: Path, scopes: Sequence[Any]) -> float:
    lengths = (abs(_number(file, scopes, tag, 0.0)) for tag in ("SpacingBetweenSlices", "SliceThickness"))
    return next((length for length in lengths if length > 0), 1.0)


def _type_for(frames: Sequence[Frame]) -> type[np.generic]:
    limits = np.array([frame.limits for frame in frames])
    lowest, highest = limits.min(), limits.max()
    if all(math.floor(number) == number for frame in frames for number in (frame.slope, frame.intercept)):
        for kind in (np.int16, np.int32, np.int64):
            if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
                return kind
    return np.float32 if max(frame.bits for frame in frames) <= 16 else np.float64


def _stored_values(frame: Frame) -> np.ndarray:
    """Return (frames, rows, columns) as stored, without unused bits."""
    dataset = load(frame.file, pixels=True)
    with reading(frame.file, "damaged pixels"):
        return _decoded(dataset, frame)


def _decoded(dataset: Any, frame: Frame) -> np.ndarray:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # no file meta information: the encoding that pydicom detected
        implicit, little = dataset.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = syntax if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelData" not in dataset:
        raise DataError.of(frame.file, "no pixel data", "a complete DICOM image")
    shape = (frame.of, *frame.shape)
    if syntax in _PLAIN:
        if syntax != uid.RLELossless:
            _check_length(dataset, shape, frame)
        values = get_decoder(syntax).as_array(dataset, raw=True, allow_excess_frames=False)[0]
    elif syntax in _CODECS:
        offsets = None
        if "ExtendedOffsetTable" in dataset:
            offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
        coded = list(generate_frames(dataset.PixelData, number_of_frames=frame.of, extended_offsets=offsets))
        if not all(code.rstrip(b"\0").endswith(_END) for code in coded):  # decoders fill missing data with grey
            raise DataError.of(frame.file, f"{syntax.name} pixels that end early", "a complete DICOM file")
        values = np.stack([_CODECS[syntax](code) for code in coded])
    else:
        raise DataError.of(frame.file, f"the transfer syntax {syntax.name}", "uncompressed, RLE or JPEG of any kind")
    if values.size != math.prod(shape):
        raise DataError.of(frame.file, f"pixels of shape {values.shape}", f"{shape} by its tags")
    return _stored_bits(values.reshape(shape), frame)


def _check_length(dataset: Any, shape: tuple[int, ...], frame: Frame) -> None:
    """Raise if the pixel data are too short or too long, or are followed by bytes that belong to no element."""
    element = dataset.get_item("PixelData")  # raw, with its position in the file
    expected = math.prod(shape) * dataset.BitsAllocated // 8
    if len(element.value) not in (expected, expected + expected % 2):
        found = f"{len(element.value)} bytes of pixel data"
        raise DataError.of(frame.file, found, f"{expected} for {shape} and {dataset.BitsAllocated} bits: a whole file")
    if element.tag == max(dataset.keys()):
        rest = frame.file.read_bytes()[element.value_tell + element.length :]
        if rest.strip(b"\0"):
            raise DataError.of(frame.file, f"{len(rest)} bytes after its pixel data", "an undamaged DICOM file")


def _stored_bits(values: np.ndarray, frame: Frame) -> np.ndarray:
    """Keep the stored bits, the lowest ones, and extend their sign; unused bits may hold an overlay."""
    width = 8 * values.dtype.itemsize
    kind = np.dtype(f"{'i' if frame.signed else 'u'}{values.dtype.itemsize}")
    if width < frame.bits:
        raise DataError.of(frame.file, f"pixels of {width} bits", f"{frame.bits} by its tags")
    unused = kind.type(width - frame.bits)
    return (values.astype(values.dtype.newbyteorder("="), copy=False).view(kind) << unused) >> unused
