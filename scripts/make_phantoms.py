#!/usr/bin/env python3
"""Make a dataset of phantoms in the folder layout of the real one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fire

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass
class _Order:
    """What is to be made. Fire reads the whole command line before anything is written."""

    kind: str
    output: str
    options: dict[str, Any]


def scroll(
    output: str,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 96,
    seed: int = 0,
    pitch: float = 14.0,
    ignore: float = 0.2,
) -> _Order:
    """Make cubes of a papyrus scroll: TIFF stacks in the layout of Kaggle's Vesuvius surface detection.

    Writes train_images/, train_labels/ and train.csv, the same for test, and held_out.json, a list of the test cases
    with their labels. The same arguments give the same files again.

    Example: python scripts/make_phantoms.py scroll --output phantoms/scroll --n_train 6 --size 128

    Args:
        output: a new or an empty folder.
        n_train: number of training cases.
        n_test: number of held-out cases.
        size: edge of a cube in voxels, at least 16.
        seed: another seed makes other scrolls.
        pitch: mean distance between windings in voxels.
        ignore: share of unlabelled voxels within the border; real data have about half.
    """
    _check_numbers(n_train=n_train, n_test=n_test, size=size, seed=seed)
    _check_numbers(float, pitch=pitch, ignore=ignore)
    options = {"n_train": n_train, "n_test": n_test, "size": size, "seed": seed, "pitch": pitch, "ignore": ignore}
    return _Order("scroll", str(output), options)


def abdomen(output: str, n_train: int = 8, n_test: int = 2, size: int = 96, slices: int = 24, seed: int = 0) -> _Order:
    """Make CT volumes of an abdomen with liver and tumours: NIfTI files under the names of LiTS.

    Writes volume-000.nii.gz, segmentation-000.nii.gz, ..., the held-out cases in test/, and held_out.json, a list of
    those. The same arguments give the same files again.

    Example: python scripts/make_phantoms.py abdomen --output phantoms/abdomen --n_train 6 --size 128 --slices 32

    Args:
        output: a new or an empty folder.
        n_train: number of training cases.
        n_test: number of held-out cases.
        size: rows and columns of a slice, at least 32; a patient is as large on any grid.
        slices: slices of a volume, at least 4.
        seed: another seed makes other patients.
    """
    _check_numbers(n_train=n_train, n_test=n_test, size=size, slices=slices, seed=seed)
    options = {"n_train": n_train, "n_test": n_test, "size": size, "slices": slices, "seed": seed}
    return _Order("abdomen", str(output), options)


def _check_numbers(kind: type = int, /, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            sys.exit(f"error: {name}: found {value!r}, expected {'a whole number' if kind is int else 'a number'}")


def main() -> None:
    """Run the command line."""
    order = fire.Fire({"scroll": scroll, "abdomen": abdomen}, name="make_phantoms.py", serialize=lambda _: None)
    if not isinstance(order, _Order):
        sys.exit("error: found no command, expected scroll or abdomen; --help shows how")
    from custom.data.phantoms import write_abdomens, write_scrolls  # slow to load: not for --help

    write = write_scrolls if order.kind == "scroll" else write_abdomens
    try:
        folder = write(order.output, **order.options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Phantoms are in {folder}")


if __name__ == "__main__":
    main()
