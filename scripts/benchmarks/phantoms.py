"""Datasets for benchmarks, in NIfTI, for which nothing beside nibabel is needed."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from custom.data import write_volume
from custom.data.phantoms import scroll_phantom, write_abdomens

SPL = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
"""Voxels of 1 mm whose axes need no turning."""


@dataclass(frozen=True)
class Phantoms:
    """What ``--dataset_dir`` takes: for training, for an evaluation on other volumes, and to predict."""

    training: Path
    held_out: Path
    images: Path


def make(bundle: str, folder: Path, *, n_train: int, n_test: int, size: int, slices: int) -> Phantoms:
    """Phantoms for a bundle: cubes of a scroll, or abdomens of ``slices`` slices."""
    if bundle == "liver_tumor_2d":
        write_abdomens(folder, n_train=n_train, n_test=n_test, size=size, slices=slices)
        return Phantoms(folder, folder / "held_out.json", folder / "test")
    lists = {"train": range(n_train), "held_out": range(n_train, n_train + n_test)}
    for part, indices in lists.items():
        cases = [_write_scroll(folder, part, index, size) for index in indices]
        (folder / f"{part}.json").write_text(json.dumps(cases), encoding="utf-8")
    return Phantoms(folder / "train.json", folder / "held_out.json", folder / "held_out_images")


def _write_scroll(folder: Path, part: str, index: int, size: int) -> dict[str, str]:
    volumes = zip(("image", "label"), scroll_phantom(seed=0, index=index, size=size), strict=True)
    files = {kind: (f"{part}_{kind}s/{index}.nii.gz", array) for kind, array in volumes}
    for file, array in files.values():
        write_volume(folder / file, array, SPL)
    return {"id": str(index), **{kind: file for kind, (file, _) in files.items()}}
