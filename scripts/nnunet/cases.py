"""What nnU-Net trains on phantoms: small models, for the comparison with it, and an arm of the recipes' comparison."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scripts.phantoms import write_abdomens, write_scrolls
from scripts.phantoms.layouts import HELD_OUT

from custom.data import find_cases, read_volume, write_volume
from custom.data.volumes import stem, suffix

DATASET = "Dataset001_Phantom"
SCROLL = {"background": 0, "surface": 1, "ignore": 2}
LIVER = {"background": 0, "liver": 1, "tumor": 2}
REGIONS = {"background": 0, "liver": [1, 2], "tumor": [2]}


@dataclass(frozen=True)
class Case:
    """A model: its phantoms, and how nnU-Net's plans are made smaller.

    Attributes:
        bundle: the bundle that it is imported for.
        configuration: of nnU-Net.
        channel: name of the channel, which decides the normalisation.
        labels: of ``dataset.json``.
        patch: patch size, 2 or 3 numbers.
        spacing: of the plans; None: nnU-Net's choice.
        residual: whether the encoder is residual.
        folds: number of networks.
        further: entries of the configuration.
        features: of a plain network with two convolutions a stage, in each stage; None: a tiny network.
        reader: nnU-Net's class that reads volumes; None: nnU-Net's choice.
    """

    bundle: str
    configuration: str
    channel: str
    labels: dict[str, Any]
    patch: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    residual: bool = False
    folds: int = 1
    further: dict[str, Any] = field(default_factory=dict)
    features: tuple[int, ...] | None = None
    reader: str | None = None

    def plan(self) -> dict[str, Any]:
        """Arguments of the functions in ``reference.py`` that plan and train."""
        return {
            "name": DATASET,
            "planner": "nnUNetPlannerResEncM" if self.residual else "ExperimentPlanner",
            "configuration": self.configuration,
            "changes": self._changes(),
            "architecture": self._architecture(),
        }

    def _architecture(self) -> dict[str, Any]:
        dims = len(self.patch)
        if self.features is not None:
            stages = len(self.features)
            return {
                "n_stages": stages,
                "features_per_stage": list(self.features),
                "kernel_sizes": [[3] * dims] * stages,
                "strides": [[1] * dims] + [[2] * dims] * (stages - 1),
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
            }
        blocks = {"n_blocks_per_stage": [1, 1, 2]} if self.residual else {"n_conv_per_stage": [1, 1, 1]}
        first = [1, 2, 2][-dims:] if self.spacing else [2] * dims
        strides = [[1] * dims, first, [2] * dims]
        kernels = [[1, 3, 3][-dims:] if self.spacing else [3] * dims, [3] * dims, [3] * dims]
        features = {"n_stages": 3, "features_per_stage": [4, 6, 8], "strides": strides, "kernel_sizes": kernels}
        return {**features, **blocks, "n_conv_per_stage_decoder": [1, 1]}

    def _changes(self) -> dict[str, Any]:
        changes = {"patch_size": list(self.patch), "batch_size": 2, **self.further}
        return changes | ({"spacing": list(self.spacing)} if self.spacing else {})


CASES = {
    "scroll_plain": Case("vesuvius_surface_3d", "3d_fullres", "CT", SCROLL, (16, 24, 24)),
    "scroll_residual_2_folds": Case(
        "vesuvius_surface_3d", "3d_fullres", "scroll", SCROLL, (20, 24, 16), residual=True, folds=2
    ),
    "liver_2d": Case("liver_tumor_2d", "2d", "CT", LIVER, (32, 40), spacing=(7.0, 6.0), folds=2),
    "liver_3d_regions": Case(
        "liver_tumor_2d", "3d_fullres", "CT", REGIONS, (12, 32, 32), spacing=(8.0, 6.5, 6.0), residual=True
    ),
    "liver_3d_masked": Case(
        "liver_tumor_2d", "3d_fullres", "MR", LIVER, (16, 32, 24), spacing=(6.0, 7.0, 7.0),
        further={"use_mask_for_norm": [True]},
    ),
}  # fmt: skip


ARMS = {
    "vesuvius_surface_3d": Case(
        "vesuvius_surface_3d", "3d_fullres", "CT", SCROLL, (48, 48, 48), further={"batch_dice": False},
        features=(8, 16, 32, 64), reader="Tiff3DIO",
    ),
    "liver_tumor_2d": Case(
        "liver_tumor_2d", "2d", "CT", LIVER, (96, 96), further={"batch_size": 8, "batch_dice": True},
        features=(16, 32, 64, 128, 256), reader="NibabelIOWithReorient",
    ),
}  # fmt: skip
"""The comparison of recipes: patch, batch size and features of the other arms; the planner chooses them for a GPU."""


def write_phantoms(case: Case, folder: Path, *, size: int) -> list[str]:
    """Write a dataset for nnU-Net below ``folder``/raw, and images to predict; returns these.

    The borders of some images are 0, which nnU-Net crops.
    """
    raw, phantoms = folder / "raw" / DATASET, folder / "phantoms"
    options = {"n_train": 3, "n_test": 2, "size": size}
    if case.bundle == "vesuvius_surface_3d":
        write_scrolls(phantoms, pitch=10.0, ignore=0.1, **options)
    else:
        write_abdomens(phantoms, slices=max(size // 3, 16), **options)
    write_dataset(case, find_cases(phantoms), raw, size)
    return write_images(find_cases(phantoms / HELD_OUT), raw / "imagesTs", size)


def write_dataset(case: Case, phantoms: Iterable[Mapping[str, str]], raw: Path, cropped: int | None = None) -> None:
    """Write labelled volumes and ``dataset.json`` in nnU-Net's folder layout; ``cropped`` is that of `write_images`."""
    phantoms = list(phantoms)
    write_images(phantoms, raw / "imagesTr", cropped)
    for phantom in phantoms:
        _write(Path(phantom["label"]), read_volume(phantom["label"]).array, raw / "labelsTr", stem(phantom["image"]))
    description = {
        "channel_names": {"0": case.channel},
        "labels": case.labels,
        "numTraining": len(phantoms),
        "file_ending": suffix(phantoms[0]["image"]),
    }
    if case.labels is REGIONS:
        description["regions_class_order"] = [1, 2]
    if case.reader is not None:
        description["overwrite_image_reader_writer"] = case.reader
    (raw / "dataset.json").write_text(json.dumps(description))


def write_images(phantoms: Iterable[Mapping[str, str]], folder: Path, cropped: int | None = None) -> list[str]:
    """Write images under the names that nnU-Net expects; returns the files.

    Args:
        phantoms: the cases.
        folder: to write to.
        cropped: the phantoms' size, if borders are to become 0: none of the first image, more of each further one.
    """
    files = []
    for index, phantom in enumerate(phantoms):
        image = read_volume(phantom["image"]).array.copy()
        if cropped is not None:
            first, last, axis = (3, 5, 2) if suffix(phantom["image"]) == ".tif" else (4, 3, 1)
            image[: first * index] = 0
            image.swapaxes(0, axis)[cropped - last * index :] = 0
        files.append(_write(Path(phantom["image"]), image, folder, stem(phantom["image"]), "_0000"))
    return files


def _write(source: Path, array: np.ndarray, folder: Path, name: str, channel: str = "") -> str:
    """Write a volume with the affine of its source, or with the spacing that nnU-Net looks for beside a TIFF."""
    ending = suffix(source)
    file = write_volume(folder / f"{name}{channel}{ending}", array, read_volume(source).affine, like=source)
    if ending == ".tif":
        (folder / f"{name}.json").write_text(json.dumps({"spacing": [1, 1, 1]}))
    return str(file)
