"""Reads DICOM: one file, or the one series of a folder, with the geometry of every file's own tags.

Slices form a volume only if they agree in size, orientation and spacing and are evenly spaced on a straight line. If
the line is not along their normal (tilted gantry), the affine contains the shear. Tags are named as in the standard
(DICOM PS3.3); its coordinates are LPS millimetres (C.7.6.2.1.1).

pydicom is imported only when a DICOM file is read.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from .dicom_file import Frame

DICOM_SUFFIXES = (".dcm", ".ima")

_EVEN = 0.1
"""Allowed deviation from even spacing, as a fraction of it; positions in files are rounded."""
_SAME_COSINE, _SAME_SPACING = 1e-3, 1e-3
"""Allowed differences of direction cosines (absolute) and spacings (relative) within a series."""
_SHOWN = 3

logger = logging.getLogger(__name__)


def read_dicom(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read one DICOM file (a slice, or a multi-frame volume) or the files of one series in a folder.

    In a folder, files without an image, localizers, and pictures without a position (screenshots, dose reports) beside
    a positioned series are ignored with a warning that names them.

    Returns:
        the rescaled values (column, row, slice), such as HU, and the affine (4, 4) from an index to RAS millimetres.

    Raises:
        DataError: no image, several series, or slices of different size, orientation, spacing or unit, two at one
            position, or one missing; a file that is truncated, in colour or in an unsupported encoding, or without
            position, orientation or spacing. The file is named.
    """
    path = Path(path)
    headers = [read_header(file) for file in (dicom_files(path) if path.is_dir() else [path])]
    if not headers:
        raise DataError.of(path, "no DICOM file", "a folder of one DICOM series")
    from . import dicom_file as files

    frames = [frame for header in _only_series(path, headers) for frame in files.frames_of(header.file, header.dataset)]
    frames, affine = _order_slices(path, frames)
    return files.real_values(frames).T, affine


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM by its content: ``DICM`` after 128 bytes, or a dataset without this preamble."""
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    # Files without preamble begin with an element of group 2 or 8, in either byte order: its number and value
    # representation (two capitals), or its number and a short length.
    group, element, kind = start[:2], start[2:4], start[4:8]
    if group in (b"\2\0", b"\10\0"):
        return len(kind) == 4 and element[1] == 0 and (kind[:2].isupper() or (kind[1:] == b"\0\0\0" and kind[0] <= 64))
    return group in (b"\0\2", b"\0\10") and element[:1] == b"\0" and kind[:2].isalpha() and kind[:2].isupper()


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder (not its subfolders) by name, without hidden ones.

    Raises:
        DataError: a file is empty, truncated within its first bytes, or damaged there.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    found = [file for file in files if file.suffix.lower() in DICOM_SUFFIXES or is_dicom(file)]
    for file in files:
        if found and file.stat().st_size == 0 and (file in found or not file.suffix):
            raise DataError.of(file, "an empty file", "a complete DICOM file")
        if found and not file.suffix and file not in found and _begins_blank(file):
            raise DataError.of(file, "a file that is cut off or damaged at its beginning", "a complete DICOM file")
    return found


def _begins_blank(file: Path) -> bool:
    """Whether the file begins with the 128 zeros of most DICOM preambles, or consists of fewer zeros."""
    with file.open("rb") as stream:
        return not stream.read(128).strip(b"\0")


@dataclass(frozen=True)
class Header:
    """What the tags say about a file."""

    file: Path
    dataset: Any
    """The tags, without the pixels."""
    series: str
    """SeriesInstanceUID, or an empty string; files without one form a series."""
    no_slice: str | None
    """Why the file cannot be part of a volume; None if it can."""
    is_picture: bool
    """Whether it is a secondary capture (such as a screenshot) or in colour, without a position."""
    words: str
    """Description of the series for messages."""


def read_header(file: Path) -> Header:
    """Read the tags of a file, without its pixels.

    Raises:
        DataError: the file is not DICOM, or damaged.
    """
    from pydicom.uid import UID

    from . import dicom_file as files

    dataset = files.load(file, pixels=False)
    with files.reading(file, "a tag that cannot be read"):
        kind = UID(str(dataset.get("SOPClassUID") or "")).name
        # The names of the SOP classes distinguish images from reports, plans, segmentations and so on. A file of an
        # unknown class may be truncated, and is treated as an image.
        no_slice = kind.removesuffix(" Storage") if kind.endswith("Storage") and "Image Storage" not in kind else None
        if no_slice is None and not dataset.get("Rows"):
            raise DataError.of(file, "no Rows", "a complete DICOM image")
        image_type = dataset.get("ImageType") or ()
        if "LOCALIZER" in ([image_type] if isinstance(image_type, str) else image_type):
            no_slice = "localizer"
        captured = "Secondary Capture" in kind or dataset.get("SamplesPerPixel") not in (None, 1)
        has_place = dataset.get("ImagePositionPatient") or "PerFrameFunctionalGroupsSequence" in dataset
        about = dataset.get("SeriesDescription") or dataset.get("Modality") or "no description"
        return Header(
            file=file,
            dataset=dataset,
            series=str(dataset.get("SeriesInstanceUID") or ""),
            no_slice=no_slice,
            is_picture=captured and not has_place,
            words=f"{about}, {file.name}",
        )


def holds_volume(files: Sequence[Path]) -> bool:
    """Whether one of the DICOM files of a folder may be a slice, by its header; reading will explain a damaged one."""
    for file in files:
        try:
            header = read_header(file)
        except DataError:
            return True
        if header.no_slice is None and not header.is_picture:
            return True
    return False


def _only_series(path: Path, headers: Sequence[Header]) -> list[Header]:
    """Return the files of the one series; ignored files are named in a warning, a second series is an error."""
    reasons = {header.file.name: header.no_slice for header in headers}
    images = [header for header in headers if not header.no_slice]
    if not images:
        name, reason = next(iter(reasons.items()))
        raise DataError.of(path, f"{len(headers)} DICOM files and no image ({name}: {reason})", "a DICOM image")
    series: dict[str, list[Header]] = {}
    for header in images:
        series.setdefault(header.series, []).append(header)
    scans = {uid: files for uid, files in series.items() if not all(file.is_picture for file in files)}
    if scans:
        series, pictures = scans, [file for uid in series.keys() - scans.keys() for file in series[uid]]
        reasons.update({picture.file.name: "a picture without a position" for picture in pictures})
    if len(series) > 1:
        counts = ", ".join(str(len(files)) for files in series.values())
        about = "; ".join(f"{len(files)} of {files[0].words}" for files in list(series.values())[:_SHOWN])
        found = f"{len(series)} DICOM series of {counts} files ({about}{'; ...' * (len(series) > _SHOWN)})"
        raise DataError.of(path, found, "one series a folder")
    (used,) = series.values()
    names = {header.file.name for header in used}
    out = {name: reason for name, reason in reasons.items() if name not in names}
    if out:
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(out.items())[:_SHOWN])
        more = ", ..." * (len(out) > _SHOWN)
        logger.warning("%s: %d of %d DICOM files are left out: %s%s", path, len(out), len(headers), shown, more)
    return used


def _order_slices(path: Path, frames: list["Frame"]) -> tuple[list["Frame"], np.ndarray]:
    """Sort the slices along their normal; return them and the affine, with the step from the positions."""
    if len({frame.file for frame in frames}) > 1:
        for frame in frames:
            if frame.of > 1:
                raise DataError.of(frame.file, f"{frame.of} frames", f"one, as one of {len(frames)} slices of {path}")
    _check_alike(frames, "size", lambda frame: frame.shape)
    _check_alike(frames, "modality", lambda frame: frame.modality)
    _check_alike([frame for frame in frames if frame.unit], "RescaleType", lambda frame: frame.unit)
    _check_close(frames, "PixelSpacing", lambda frame: frame.spacing, _SAME_SPACING * frames[0].spacing.max())
    _check_close(frames, "ImageOrientationPatient", lambda frame: frame.orientation, _SAME_COSINE)
    across, down = frames[0].orientation[:3], frames[0].orientation[3:]
    normal = np.cross(across, down)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    rows, columns = frames[0].spacing  # from row to row, from column to column
    if len(frames) == 1:
        step = normal * frames[0].thickness
    else:
        positions = np.array([frame.position for frame in frames])
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        _check_line(frames, positions, step, normal, max(rows, columns))
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, frames[0].position], axis=1)
    return frames, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_line(
    frames: list["Frame"], positions: np.ndarray, step: np.ndarray, normal: np.ndarray, pixel: float
) -> None:
    """Raise for slices that are not evenly spaced on a line, naming those at the largest irregularity."""
    along = positions @ normal
    even = float(step @ normal)
    gaps = np.diff(along)
    off = positions - positions[0] - np.arange(len(frames))[:, None] * step
    if gaps.min() > _EVEN * even and np.abs(off @ normal).max() <= _EVEN * even:
        aside = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
        if aside.max() > _EVEN * max(even, pixel):
            worst = frames[int(aside.argmax())]
            found = f"a position {aside.max():.4g} mm beside the line of the other slices"
            raise DataError.of(worst.name, found, "slices on one straight line")
        return
    k = int(gaps.argmin())
    if gaps[k] <= _EVEN * even:
        where = f"{along[k]:.6g} mm" if gaps[k] < 1e-3 else f"{along[k]:.6g} and {along[k + 1]:.6g} mm"
        found = f"the position of {frames[k].short_name} again ({where} along the normal)"
        raise DataError.of(frames[k + 1].name, found, "one slice at each position")
    usual = float(np.percentile(gaps, 50, method="lower"))
    k = int(np.abs(gaps - usual).argmax())
    found = f"{gaps[k]:.4g} mm from {frames[k].short_name} to this slice (from {along[k]:.6g} to {along[k + 1]:.6g} mm)"
    raise DataError.of(frames[k + 1].name, found, f"evenly spaced slices, as most that are {usual:.4g} mm apart")


def _check_alike(frames: Sequence["Frame"], what: str, of: Callable[["Frame"], Hashable]) -> None:
    """Raise for the first slice that differs from the majority."""
    counts = Counter(of(frame) for frame in frames)
    if len(counts) > 1:
        usual, number = counts.most_common(1)[0]
        odd = next(frame for frame in frames if of(frame) != usual)
        raise DataError.of(odd.name, f"{what} {of(odd)}", f"{usual} as {number} other slices of the series")


def _check_close(frames: Sequence["Frame"], what: str, of: Callable[["Frame"], np.ndarray], tolerance: float) -> None:
    """Raise for the slice whose numbers differ most from the median, if by more than the tolerance."""
    values = np.array([of(frame) for frame in frames])
    usual = np.percentile(values, 50, axis=0, method="lower")
    differences = np.abs(values - usual).max(axis=1)
    worst = int(differences.argmax())
    if differences[worst] > tolerance:
        found, expected = (" ".join(f"{value:g}" for value in row) for row in (values[worst], usual))
        raise DataError.of(frames[worst].name, f"{what} {found}", f"{expected} as most slices of the series")
