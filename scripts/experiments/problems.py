"""What a comparison of recipes trains on and scores, for each bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.experiments.commands import ROOT

from custom.data.volumes import read_volume, to_canonical
from custom.metrics.vesuvius_score import PARTS
from custom.ops.target_layout import IGNORE_LABEL


class Problem(NamedTuple):
    """Phantoms, options and scores of a bundle."""

    name: str
    """Of the bundle."""
    phantoms: str
    """Kind of phantoms, for scripts/make_phantoms.py."""
    size: int
    n_train: int
    n_test: int
    test_sets: Mapping[str, Mapping[str, Any]]
    """Arguments of the phantoms that are scored; those for training have seed 0 and the default look."""
    test_folders: tuple[str, str]
    """Folders of images and labels of the scored phantoms, within theirs."""
    shared_keys: tuple[str, ...]
    """Start of the overrides that inference needs as well as training."""
    inference: Mapping[str, Any]
    """Options without which inference would do more than apply the network."""
    score: str
    """Command of scripts/score.py."""
    columns: Mapping[str, Callable[[Mapping[str, Any]], float]]
    """Columns of the table, and where the mean scores hold them."""
    read: Callable[[Path], np.ndarray]
    """Reads a volume as (D, H, W)."""
    window: tuple[int, int]
    """Grey values that pictures show as black and white."""
    ignored: int | None = None
    """Label value that is never an error."""

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return ROOT / "bundles" / self.name

    @property
    def arms(self) -> Path:
        """Folder of the override files to compare."""
        return ROOT / "scripts" / "experiments" / "arms" / self.name

    @property
    def small(self) -> Path:
        """Overrides that make the bundle small enough for a CPU core; an arm may change them."""
        return ROOT / "scripts" / "experiments" / "small" / f"{self.name}.json"

    def places(self, data: Path) -> tuple[Path, Path]:
        """Images and labels of a set that is scored."""
        images, labels = self.test_folders
        return data / images, data / labels


PROBLEMS = {
    "vesuvius_surface_3d": Problem(
        name="vesuvius_surface_3d",
        phantoms="scroll",
        size=128,
        n_train=14,
        n_test=4,
        test_sets={"unseen scrolls": {"seed": 1}, "other sheets": {"seed": 2, "pitch": 10}},
        test_folders=("test_images", "test_labels"),
        shared_keys=("network_def", "patch_size"),
        inference={},
        score="vesuvius",
        columns={name: lambda mean, name=name: mean[name] for name in ("score", *PARTS)},
        read=lambda path: read_volume(path).array,
        window=(0, 255),
        ignored=IGNORE_LABEL,
    ),
    "liver_tumor_2d": Problem(
        name="liver_tumor_2d",
        phantoms="abdomen",
        size=96,
        n_train=32,
        n_test=15,
        test_sets={"unseen patients": {"seed": 1}, "fainter tumours": {"seed": 2, "contrast": 20}},
        test_folders=("test", "test"),
        shared_keys=("network_def", "n_context", "context_mm", "window"),
        inference={"clean_liver": False, "tta": []},
        score="liver",
        columns={
            "tumour Dice": lambda mean: mean["tumor"]["dice"],
            "lesion F1": lambda mean: mean["lesions"]["f1"],
            "liver Dice": lambda mean: mean["liver"]["dice"],
        },
        read=lambda path: to_canonical(read_volume(path)).array,
        window=(-100, 200),
    ),
}
