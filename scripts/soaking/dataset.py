"""A dataset of extreme volumes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scripts.phantoms import abdomen_phantom, scroll_phantom

from custom.data import write_volume
from custom.ops.target_layout import IGNORE_LABEL

AFFINE = np.diag([0.8, 0.8, 3.0, 1.0])

Case = tuple[str, np.ndarray, np.ndarray]


def write_dataset(bundle: str, folder: Path, size: int) -> Path:
    """Write the volumes for a bundle and return the list of them.

    Args:
        bundle: its name.
        folder: an existing folder.
        size: edge of a cube, or rows and columns of a slice.
    """
    is_scroll = bundle == "vesuvius_surface_3d"
    ending, affine = (".tif", None) if is_scroll else (".nii.gz", AFFINE)
    rows = []
    for name, image, label in _cubes(size) if is_scroll else _scans(size):
        row = {"image": str(folder / f"{name}{ending}"), "label": str(folder / f"{name}_label{ending}")}
        write_volume(row["image"], image, affine)
        write_volume(row["label"], label, affine)
        rows.append(row)
    listed = folder / "cases.json"
    listed.write_text(json.dumps(rows))
    return listed


def _cubes(size: int) -> Iterator[Case]:
    image, label = scroll_phantom(seed=0, index=0, size=size)
    one = _one_voxel(label)
    one[0] = IGNORE_LABEL  # a label without ignored voxels marks a withdrawn case
    yield "phantom", image, label
    yield "saturated", np.full_like(image, 255), label
    yield "saturated_in_part", np.where(image > 100, 255, image).astype(np.uint8), label
    yield "constant", np.full_like(image, 93), label
    yield "empty", np.zeros_like(image), np.where(label == IGNORE_LABEL, label, 0).astype(np.uint8)
    yield "ignored", image, np.full_like(label, IGNORE_LABEL)
    yield "one_voxel", image, one
    yield "flat", image[: size // 4], label[: size // 4]  # thinner than a patch


def _scans(size: int) -> Iterator[Case]:
    phantom = abdomen_phantom(seed=0, index=0, size=size, slices=8)
    image, label = phantom.image, phantom.label
    yield "phantom", image, label
    yield "saturated", np.full_like(image, 3071), label
    yield "constant", np.full_like(image, 40), label
    yield "empty", np.full_like(image, -1024), np.zeros_like(label)
    yield "zero", np.zeros_like(image), label
    yield "one_voxel", image, _one_voxel(label)
    yield "all_tumour", image, np.full_like(label, 2)


def _one_voxel(label: np.ndarray) -> np.ndarray:
    one = np.zeros_like(label)
    one[tuple(length // 2 for length in label.shape)] = 1
    return one
