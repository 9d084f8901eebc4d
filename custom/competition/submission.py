"""Writes predictions in the competitions' submission formats, and verifies them by decoding."""

import csv
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from ..data.cases import Case
from ..data.labels import as_labels
from ..data.nifti_geometry import nifti_affine
from ..data.volumes import NIFTI_SUFFIXES, TIFF_SUFFIXES, read_shape, read_volume, suffix
from ..data.writing import write_volume
from ..errors import DataError
from ..metrics.pairs import volumes_in
from ..ops.run_length import decode, encode
from ..system.files import write_whole

HEADER = ["id", "rle"]


def fill_missing(cases: Iterable[Case], predictions: str | Path, ending: str) -> list[str]:
    """Write an empty prediction, with the image's shape and geometry, for each case without one.

    Competitions reject submissions with missing entries or wrong shapes.

    Args:
        ending: suffix of the predictions, ``".tif"`` or ``".nii.gz"``.

    Returns:
        ids of the cases without prediction.

    Raises:
        DataError: the header of an image without prediction cannot be read; a prediction has another shape than its
            image.
    """
    filled = []
    for case in cases:
        path = Path(predictions, case["id"] + ending)
        shape = _shape(case["image"])
        if not path.is_file():
            write_volume(path, np.zeros(shape, np.uint8), _affine(case["image"]), like=case["image"])
            filled.append(case["id"])
        elif _shape(path) != shape:
            raise DataError.of(path, f"the shape {_shape(path)}", f"{shape}, that of {case['image']}")
    return filled


def check_ids(submission: str | Path, sample: str | Path) -> int:
    """Compare the ids of a CSV with those of the competition's ``sample_submission.csv``, in any order.

    Returns:
        the number of ids.

    Raises:
        DataError: they differ.
    """
    found, expected = _ids(submission), _ids(sample)
    if set(found) != set(expected):
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        one = f"without {min(missing)!r}" if missing else f"with {min(extra)!r}"
        raise DataError.of(
            submission,
            f"{len(found)} ids, {one}",
            f"the {len(expected)} ids of {sample}; they follow from id_template and first_slice",
        )
    return len(found)


def write_liver(
    predictions: str | Path,
    output: str | Path = "submission.csv",
    *,
    id_template: str = "{volume}_{slice}",
    first_slice: int = 0,
    transpose: bool = False,
) -> None:
    """Write ``id,rle``, a run-length code for each slice of each label map (I, J, K), and verify it by decoding.

    The mask is liver and tumour together (label > 0). Slices are those along the last axis of the file as stored; rows
    are the first axis, columns the second, and pixels are numbered column by column from 1 (competition "AIO2025
    warm-up liver tumor segmentation").

    Args:
        id_template: ``{volume}`` is the file name without suffix, ``{number}`` its trailing number, ``{slice}`` the
            slice.
        transpose: whether rows are the second axis instead.

    Raises:
        DataError: no predictions, or no label maps; a template without unique ids.
    """
    volumes = volumes_in(Path(predictions))

    def rows(description: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, path in tqdm(volumes.items(), desc=description, unit="volume", disable=None):
            mask = as_labels(read_volume(path).array, (0, 1, 2), path) > 0
            for index in range(mask.shape[2]):
                plane = mask[:, :, index]
                yield _fill(id_template, name, index + first_slice), plane.T if transpose else plane

    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows((row_id, encode(plane)) for row_id, plane in rows("writing"))
        filled.extend(_check_csv(file, rows("checking"), output))

    filled: list[bool] = []
    write_whole(output, write)
    print(f"{output}: {len(volumes)} volumes, {len(filled)} slices, {sum(filled)} of them with liver; decoded, equal")


def write_vesuvius(predictions: str | Path, output: str | Path = "submission.zip") -> None:
    """Write a zip of ``<id>.tif``, uint8 masks of 0 and 1, and verify it by unpacking.

    Stacks are rewritten as plain LZW TIFF, since not every reader supports every program's files.

    Raises:
        DataError: no predictions, or no masks.
    """
    volumes = volumes_in(Path(predictions))
    for path in volumes.values():
        if suffix(path) not in TIFF_SUFFIXES:
            raise DataError.of(path, f"a file ending in {suffix(path)}", "TIFF stacks alone")

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
            for name, path in tqdm(volumes.items(), desc="writing", unit="volume", disable=None):
                content = write_volume(Path(folder, "mask.tif"), _mask(path)).read_bytes()
                # ZipInfo has a fixed date, so that equal predictions give an identical zip.
                archive.writestr(zipfile.ZipInfo(f"{name}.tif"), content, zipfile.ZIP_DEFLATED)
        _check_zip(file, volumes, output)

    write_whole(output, write)
    print(f"{output}: {len(volumes)} volumes; decoded, equal")


def _fill(template: str, name: str, index: int) -> str:
    number = re.search(r"(\d+)$", name)
    values = {"volume": name, "slice": index} | ({"number": int(number[1])} if number else {})
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        expected = f"a format of {', '.join(f'{{{key}}}' for key in values)} for {name}"
        raise DataError.of(f"id_template {template}", f"{type(error).__name__} {error}", expected) from None


def _shape(path: str | Path) -> tuple[int, ...]:
    """Return the shape with three axes, from the header if possible."""
    header = read_shape(path)
    return (*header[0], 1, 1)[:3] if header else read_volume(path).array.shape


def _affine(path: str) -> np.ndarray | None:
    if suffix(path) in NIFTI_SUFFIXES:
        return nifti_affine(nibabel.load(path))
    return None if suffix(path) in TIFF_SUFFIXES else read_volume(path).affine


def _ids(path: str | Path) -> list[str]:
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return [row[HEADER[0]] for row in csv.DictReader(stream)]


def _mask(path: Path) -> np.ndarray:
    return as_labels(read_volume(path).array, (0, 1), path)


def _check_csv(file: Path, expected: Iterator[tuple[str, np.ndarray]], output: str | Path) -> list[bool]:
    """Decode every row and compare it with the prediction, read anew; returns whether each slice contains liver."""
    filled, seen = [], set()
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        if next(reader) != HEADER:
            raise DataError.of(output, "another header", ",".join(HEADER))
        for (row_id, plane), row in zip(expected, reader, strict=True):
            if row[0] != row_id or not np.array_equal(decode(row[1], plane.shape), plane):
                raise DataError.of(output, f"a row {row[0]} that does not decode to its slice", f"the mask of {row_id}")
            if row_id in seen:
                raise DataError.of(output, f"the id {row_id} twice", "a template that tells slices and volumes apart")
            seen.add(row_id)
            filled.append(bool(plane.any()))
    return filled


def _check_zip(file: Path, volumes: dict[str, Path], output: str | Path) -> None:
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory() as folder:
        names = [f"{name}.tif" for name in volumes]
        if archive.namelist() != names:
            raise DataError.of(output, f"the members {archive.namelist()}", f"{names}")
        for member, path in tqdm(zip(names, volumes.values(), strict=True), "checking", len(names), disable=None):
            unpacked = Path(archive.extract(member, folder))
            array = read_volume(unpacked).array
            if array.dtype != np.uint8 or not np.array_equal(array, _mask(path)):
                raise DataError.of(output, f"another {member}", f"the voxels of {path}")
            unpacked.unlink()
