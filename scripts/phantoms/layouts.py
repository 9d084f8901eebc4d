"""Phantoms as files, in the folder layouts of the real datasets."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom.data.writing import write_volume
from custom.errors import DataError
from custom.system.files import write_json, write_whole

from .abdomen import abdomen_phantom, check_abdomen
from .scroll import check_scroll, scroll_id, scroll_phantom

FIRST_TEST = 500  # index of the first held-out case, above those of training cases
MANIFEST = "phantoms.json"
HELD_OUT = "held_out.json"

Row = dict[str, str]


def write_scrolls(
    output: str | Path,
    *,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 96,
    seed: int = 0,
    pitch: float = 14.0,
    ignore: float = 0.2,
) -> Path:
    """Make cubes of a papyrus scroll: TIFF stacks in the layout of Kaggle's Vesuvius surface detection.

    Writes train_images/, train_labels/ and train.csv, the same for test, and held_out.json, a list of the test cases
    with their labels. The same arguments give the same files.

    Example: python scripts/make_phantoms.py scroll --output phantoms/scroll --n_train 6 --size 128

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        n_train: number of training cases, up to 500.
        n_test: number of held-out cases, up to 500.
        size: edge of a cube in voxels, at least 16.
        seed: determines the scrolls.
        pitch: mean distance between windings in voxels.
        ignore: fraction of unlabelled voxels within the border; about half in real data.

    Raises:
        DataError: an argument is out of its range, or the folder has other contents or cannot be written.
    """
    options = {"seed": seed, "size": size, "pitch": pitch, "ignore": ignore}
    check_scroll(**options)

    def write_case(folder: Path, part: str, index: int) -> Row:
        name = f"{1000 + index}"
        image, label = scroll_phantom(index=index, **options)
        image_file, label_file = (f"{part}_{kind}/{name}.tif" for kind in ("images", "labels"))
        write_volume(folder / image_file, image)
        write_volume(folder / label_file, label)
        return {"id": name, "image": image_file, "label": label_file, "group": str(scroll_id(index))}

    folder = Path(str(output))
    for part, cases in _write(folder, "scroll", options, n_train, n_test, write_case).items():
        text = "id,scroll_id\n" + "".join(f"{case['id']},{case['group']}\n" for case in cases)
        write_whole(folder / f"{part}.csv", lambda file, text=text: file.write_text(text, encoding="utf-8"))
    return folder


def write_abdomens(
    output: str | Path,
    *,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 96,
    slices: int = 24,
    seed: int = 0,
    contrast: float = 30.0,
) -> Path:
    """Make CT volumes of an abdomen with liver and tumours: NIfTI files with LiTS names.

    Writes volume-000.nii.gz, segmentation-000.nii.gz, ..., the held-out cases in test/, and held_out.json, a list of
    those. The same arguments give the same files.

    Example: python scripts/make_phantoms.py abdomen --output phantoms/abdomen --n_train 6 --size 128 --slices 32

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        n_train: number of training cases, up to 500.
        n_test: number of held-out cases, up to 500.
        size: rows and columns of a slice, at least 32; the size in mm does not depend on it.
        slices: slices per volume, at least 4.
        seed: determines the patients.
        contrast: by how many HU tumours are darker than the liver on average.

    Raises:
        DataError: an argument is out of its range, or the folder has other contents or cannot be written.
    """
    options = {"seed": seed, "size": size, "slices": slices, "contrast": contrast}
    check_abdomen(**options)

    def write_case(folder: Path, part: str, index: int) -> Row:
        prefix = "test/" if part == "test" else ""
        case = abdomen_phantom(index=index, **options)
        image_file, label_file = (f"{prefix}{kind}-{index:03d}.nii.gz" for kind in ("volume", "segmentation"))
        write_volume(folder / image_file, case.image, case.affine)
        write_volume(folder / label_file, case.label, case.affine)
        return {"id": f"volume-{index:03d}", "image": image_file, "label": label_file}

    _write(Path(str(output)), "abdomen", options, n_train, n_test, write_case)
    return Path(str(output))


def write_zarr_scroll(
    output: str | Path, *, size: int = 512, seed: int = 9, pitch: float = 14.0, chunk: int = 128
) -> Path:
    """Make one large cube of a papyrus scroll as OME-Zarr, for scripts/predict_scroll.py.

    Writes scroll.zarr and label.zarr (0 background, 1 recto, 2 the unlabelled border). The same arguments give the same
    files. 512 voxels take about a minute and 4 GB of memory.

    Example: python scripts/make_phantoms.py zarr --output phantoms/zarr --size 256

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        size: edge of the cube in voxels, at least 16.
        seed: determines the scroll; with the default, part of the cube is outside of the scroll.
        pitch: mean distance between windings in voxels.
        chunk: edge of the chunks in voxels.

    Raises:
        DataError: an argument is out of its range, or the folder has other contents or cannot be written.
    """
    try:
        from custom.scroll.ome_zarr import write_image
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected what pip install -e '.[scroll]' installs")
    output = Path(str(output))
    options = {"size": size, "seed": seed, "pitch": pitch}
    check_scroll(**options, ignore=0.0)
    _claim(output, {"phantoms": "zarr", **options, "chunk": chunk})
    image, label = scroll_phantom(**options, index=0, ignore=0.0)
    write_image(str(output / "scroll.zarr"), image, chunk=chunk)
    write_image(str(output / "label.zarr"), label, chunk=chunk, mask=True)
    return output


def _write(
    output: Path,
    kind: str,
    options: dict[str, Any],
    n_train: int,
    n_test: int,
    write_case: Callable[[Path, str, int], Row],
) -> dict[str, list[Row]]:
    """Write all cases and the list of the held-out ones; returns the rows of each non-empty part."""
    if not (0 < n_train <= FIRST_TEST and 0 <= n_test <= FIRST_TEST):
        raise DataError(f"n_train must be 1 to {FIRST_TEST} and n_test 0 to {FIRST_TEST}, got {n_train} and {n_test}")
    _claim(output, {"phantoms": kind, "n_train": n_train, "n_test": n_test, **options})
    indices = [("train", i) for i in range(n_train)] + [("test", FIRST_TEST + i) for i in range(n_test)]
    rows: dict[str, list[Row]] = {}
    for part, index in tqdm(indices, desc=f"{kind} phantoms", unit="case"):
        rows.setdefault(part, []).append(write_case(output, part, index))
    if n_test:
        write_json(output / HELD_OUT, rows["test"])
    return rows


def _claim(output: Path, plan: dict[str, Any]) -> None:
    """Create the folder and record the plan in it, so that phantoms neither mix with nor overwrite other data."""
    manifest = output / MANIFEST
    try:
        output.mkdir(parents=True, exist_ok=True)
        if manifest.exists():
            old = json.loads(manifest.read_text(encoding="utf-8"))
            if old != plan:
                raise DataError.of(output, f"phantoms made with {old}", f"{plan}, or an empty folder")
        elif any(output.iterdir()):
            raise DataError.of(output, "a folder with other files", "an empty or a new folder")
        write_json(manifest, plan)
    except OSError as error:
        raise DataError.of(output, error.strerror or str(error), "a folder that can be written") from error
