"""Small models that nnU-Net trains on phantoms, for the comparison with it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile

from scripts.phantoms import write_abdomens, write_scrolls

DATASET = "Dataset001_Phantom"
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

    def architecture(self) -> dict[str, Any]:
        """Arguments of a tiny network."""
        dims = len(self.patch)
        blocks = {"n_blocks_per_stage": [1, 1, 2]} if self.residual else {"n_conv_per_stage": [1, 1, 1]}
        first = [1, 2, 2][-dims:] if self.spacing else [2] * dims
        strides = [[1] * dims, first, [2] * dims]
        kernels = [[1, 3, 3][-dims:] if self.spacing else [3] * dims, [3] * dims, [3] * dims]
        features = {"n_stages": 3, "features_per_stage": [4, 6, 8], "strides": strides, "kernel_sizes": kernels}
        return {**features, **blocks, "n_conv_per_stage_decoder": [1, 1]}

    def changes(self) -> dict[str, Any]:
        """Entries of the configuration."""
        changes = {"patch_size": list(self.patch), "batch_size": 2, **self.further}
        return changes | ({"spacing": list(self.spacing)} if self.spacing else {})


SCROLL = {"background": 0, "surface": 1, "ignore": 2}
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


def write_phantoms(case: Case, folder: Path, *, size: int, seed: int = 0) -> list[str]:
    """Write a dataset for nnU-Net below ``folder``/raw, and images to predict; returns these.

    The borders of some images are 0, which nnU-Net crops.
    """
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / name).mkdir(parents=True)
    write = _write_scrolls if case.bundle == "vesuvius_surface_3d" else _write_abdomens
    ending = write(folder / "phantoms", raw, size, seed)
    description = {"channel_names": {"0": case.channel}, "labels": case.labels, "numTraining": 3, "file_ending": ending}
    if case.labels is REGIONS:
        description["regions_class_order"] = [1, 2]
    (raw / "dataset.json").write_text(json.dumps(description))
    return sorted(str(path) for path in (raw / "imagesTs").iterdir() if not path.name.endswith(".json"))


def _write_scrolls(phantoms: Path, raw: Path, size: int, seed: int) -> str:
    write_scrolls(str(phantoms), n_train=3, n_test=2, size=size, seed=seed, pitch=10.0, ignore=0.1)
    for kind, target in (("train", "Tr"), ("test", "Ts")):
        for index, path in enumerate(sorted((phantoms / f"{kind}_images").glob("*.tif"))):
            image = tifffile.imread(path)
            image[: 3 * index], image[:, :, size - 5 * index :] = 0, 0
            tifffile.imwrite(raw / f"images{target}" / f"{path.stem}_0000.tif", image)
            spacing = {"spacing": [1, 1, 1]}
            (raw / f"images{target}" / f"{path.stem}.json").write_text(json.dumps(spacing))
            if kind == "train":
                label = tifffile.imread(phantoms / "train_labels" / path.name)
                tifffile.imwrite(raw / "labelsTr" / path.name, label)
                (raw / "labelsTr" / f"{path.stem}.json").write_text(json.dumps(spacing))
    return ".tif"


def _write_abdomens(phantoms: Path, raw: Path, size: int, seed: int) -> str:
    write_abdomens(str(phantoms), n_train=3, n_test=2, size=size, slices=max(size // 3, 16), seed=seed)
    for place, target in ((phantoms, "Tr"), (phantoms / "test", "Ts")):
        for index, path in enumerate(sorted(place.glob("volume-*.nii*"))):
            image: Any = nib.load(path)
            values = np.asarray(image.dataobj).astype(np.int16)
            values[: 4 * index], values[:, size - 3 * index :] = 0, 0
            name = path.name.split(".")[0]
            nib.save(nib.Nifti1Image(values, image.affine), raw / f"images{target}" / f"{name}_0000.nii.gz")
            if target == "Tr":
                label: Any = nib.load(next(place.glob(f"{name.replace('volume', 'segmentation')}.nii*")))
                label = nib.Nifti1Image(np.asarray(label.dataobj).astype(np.uint8), image.affine)
                nib.save(label, raw / "labelsTr" / f"{name}.nii.gz")
    return ".nii.gz"
