"""Phantoms as files, in the folder layouts of the real datasets."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom.data.writing import write_volume
from custom.errors import DataError
from custom.system.files import write_whole

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
    """Write scroll phantoms in the layout of Kaggle's "Vesuvius Challenge - Surface Detection".

    ``train_images/<id>.tif``, ``train_labels/<id>.tif``, ``train.csv`` (``id,scroll_id``), ``test_images/``,
    ``test.csv``; and, unlike the competition, ``test_labels/`` and the data list ``held_out.json``.

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        n_train, n_test: cases, up to 500 each.
        size, seed, pitch, ignore: see :func:`scroll_phantom`.

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

    rows = _write(Path(output), "scroll", options, n_train, n_test, write_case)
    for part, cases in rows.items():
        _write_csv(Path(output) / f"{part}.csv", cases)
    return Path(output)


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
    """Write abdomen phantoms with LiTS names.

    ``volume-000.nii.gz`` and ``segmentation-000.nii.gz``, ...; the same in ``test/`` for the held-out cases, which are
    numbered from 500 and listed in ``held_out.json``.

    Args:
        output: a new or empty folder, or one that the same call has filled before.
        n_train, n_test: cases, up to 500 each.
        size, slices, seed, contrast: see :func:`abdomen_phantom`.

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

    _write(Path(output), "abdomen", options, n_train, n_test, write_case)
    return Path(output)


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
    claim(output, {"phantoms": kind, "n_train": n_train, "n_test": n_test, **options})
    indices = [("train", i) for i in range(n_train)] + [("test", FIRST_TEST + i) for i in range(n_test)]
    rows: dict[str, list[Row]] = {}
    for part, index in tqdm(indices, desc=f"{kind} phantoms", unit="case"):
        rows.setdefault(part, []).append(write_case(output, part, index))
    if n_test:
        _write_json(output / HELD_OUT, rows["test"])
    return rows


def claim(output: Path, plan: dict[str, Any]) -> None:
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
        _write_json(manifest, plan)
    except OSError as error:
        raise DataError.of(output, error.strerror or str(error), "a folder that can be written") from error


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda file: file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def _write_csv(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "scroll_id"])
    writer.writerows([row["id"], row["group"]] for row in rows)
    write_whole(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))
