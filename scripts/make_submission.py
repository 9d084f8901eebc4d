"""Turn folders of predictions into what the competitions accept, and check it by decoding it again."""

import csv
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fire
import numpy as np
from tqdm import tqdm

from custom.data.volumes import TIFF_SUFFIXES, read_volume, suffix
from custom.errors import DataError, show_data_errors_as_one_line
from custom.files import write_whole
from custom.metrics.pairs import volumes_in
from custom.ops.run_length import decode, encode

HEADER = ["id", "rle"]


def liver(
    predictions: str,
    output: str = "submission.csv",
    id_template: str = "{volume}_{slice}",
    first_slice: int = 0,
    transpose: bool = False,
) -> None:
    """Write the CSV of the liver competition: a run-length code for each slice of each predicted volume.

    The mask is liver and tumour together (label > 0). Slices are those along the last axis of the file as it is stored
    (k of a NIfTI), whatever its orientation; their rows are the first axis and their columns the second, as nibabel
    gives them, and pixels are counted down the columns from 1. A slice without liver is "1 0".

    Example: python scripts/make_submission.py liver eval/predictions --id_template "{number:03d}_{slice}"

    Args:
        predictions: folder of label maps, one a volume, as inference writes them.
        output: the CSV to write, with the columns id and rle.
        id_template: {volume} is the file's name without ending, {number} the number it ends in, {slice} the slice.
        first_slice: number of the first slice.
        transpose: take the second axis for the rows instead.
    """
    volumes = volumes_in(Path(str(predictions)))

    def rows(description: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, path in tqdm(volumes.items(), desc=description, unit="volume", disable=None):
            mask = _labels(path) > 0
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
    write_whole(str(output), write)
    print(f"{output}: {len(volumes)} volumes, {len(filled)} slices, {sum(filled)} of them with liver; decoded, equal")


def vesuvius(predictions: str, output: str = "submission.zip") -> None:
    """Write the zip of the surface competition: <id>.tif for each predicted volume, 8-bit, 0 or 1.

    Example: python scripts/make_submission.py vesuvius eval/predictions --output submission.zip

    Args:
        predictions: folder of masks, one multi-page TIFF a volume, as inference writes them.
        output: the zip to write.
    """
    volumes = volumes_in(Path(str(predictions)))
    for path in volumes.values():
        if suffix(path) not in TIFF_SUFFIXES:
            raise DataError.of(path, f"a file ending in {suffix(path)}", "TIFF stacks alone")

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in tqdm(volumes.items(), desc="writing", unit="volume", disable=None):
                _check_mask(path, read_volume(path).array)
                # A fixed date: the same predictions give the same zip.
                archive.writestr(zipfile.ZipInfo(f"{name}.tif"), path.read_bytes(), zipfile.ZIP_DEFLATED)
        _check_zip(file, volumes, output)

    write_whole(str(output), write)
    print(f"{output}: {len(volumes)} volumes; decoded, equal")


def _fill(template: str, name: str, index: int) -> str:
    number = re.search(r"(\d+)$", name)
    values = {"volume": name, "slice": index} | ({"number": int(number[1])} if number else {})
    try:
        return str(template).format(**values)
    except (KeyError, IndexError, ValueError) as error:
        expected = f"a format of {', '.join(f'{{{key}}}' for key in values)} for {name}"
        raise DataError.of(f"id_template {template}", f"{type(error).__name__} {error}", expected) from None


def _labels(path: Path) -> np.ndarray:
    array = read_volume(path).array
    if array.dtype.kind == "f" and not np.array_equal(array, array.round()):
        raise DataError.of(path, "fractions", "labels, which are whole numbers")
    return array


def _check_mask(path: Path, array: np.ndarray) -> None:
    if array.dtype != np.uint8 or array.max() > 1:
        raise DataError.of(path, f"{array.dtype} with values up to {array.max()}", "uint8, 0 or 1")


def _check_csv(file: Path, expected: Iterator[tuple[str, np.ndarray]], output: str) -> list[bool]:
    """Decode every row and compare it with the prediction, which is read anew; whether each slice has any liver."""
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


def _check_zip(file: Path, volumes: dict[str, Path], output: str) -> None:
    """Unpack every member and compare it with the prediction."""
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory() as folder:
        names = [f"{name}.tif" for name in volumes]
        if archive.namelist() != names:
            raise DataError.of(output, f"the members {archive.namelist()}", f"{names}")
        for member, path in tqdm(zip(names, volumes.values(), strict=True), "checking", len(names), disable=None):
            unpacked = Path(archive.extract(member, folder))
            array, source = read_volume(unpacked).array, read_volume(path).array
            _check_mask(unpacked, array)
            if not np.array_equal(array, source):
                raise DataError.of(output, f"another {member}", f"the voxels of {path}")
            unpacked.unlink()


if __name__ == "__main__":
    show_data_errors_as_one_line()
    fire.Fire({"liver": liver, "vesuvius": vesuvius}, name="make_submission.py")
