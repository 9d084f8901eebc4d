"""Files of a model trained by nnU-Net: results folder, exported zip file, or folder from Hugging Face."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from scripts.bundles.configs import read_json

from custom.errors import DataError
from custom.networks.nnunet import without_duplicates

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
EXPECTED = "a folder or zip file of nnU-Net with dataset.json, plans.json and fold_X/checkpoint_final.pth"
NEEDED = ("network_weights", "trainer_name", "init_args")


@dataclass(frozen=True)
class Model:
    """What nnU-Net stores of a trained model.

    Attributes:
        path: the folder, for messages.
        dataset: ``dataset.json``.
        plans: ``plans.json``.
        configuration: name of the configuration in the plans.
        trainer: name of the trainer's class.
        mirroring: axes along which predictions are mirrored.
        weights: state dicts of the folds, each tensor once.
    """

    path: Path
    dataset: dict[str, Any]
    plans: dict[str, Any]
    configuration: str
    trainer: str
    mirroring: tuple[int, ...]
    weights: list[dict[str, torch.Tensor]]


def read_model(path: Path, folds: Sequence[str] | None = None, checkpoint: str | None = None) -> Model:
    """Read a model.

    Args:
        path: the folder of the trainer, a folder that contains a single one, or a zip file of such a folder.
        folds: which ones, by default all that there are except ``all``.
        checkpoint: name of the files; by default ``checkpoint_final.pth``, or else ``checkpoint_best.pth``.

    Raises:
        DataError: files are missing or damaged, hold other things than nnU-Net's, or do not belong together.
    """
    with _unpacked(path) as root:
        folder = _model_folder(root, path)
        dataset, plans = (read_json(folder / name) for name in ("dataset.json", "plans.json"))
        files = _checkpoints(folder, path, folds, checkpoint)
        contents = [read_checkpoint(file) for file in files]
    first = contents[0]
    made_by = [(content["trainer_name"], content["init_args"]["configuration"]) for content in contents]
    for file, found in zip(files, made_by, strict=True):
        if found != made_by[0]:
            raise DataError.of(file, " with ".join(found), f"{' with '.join(made_by[0])}, as in {files[0]}")
    mirroring = first.get("inference_allowed_mirroring_axes") or ()
    weights = [without_duplicates(content["network_weights"]) for content in contents]
    trainer, configuration = made_by[0]
    return Model(path, dataset, plans, configuration, trainer, tuple(mirroring), weights)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net; no code in the file is executed.

    Besides tensors, such files hold numpy's numbers (in the logged curves), of which only float and integer types are
    allowed.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various types for unsuitable files
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__)
        raise DataError.of(path, f"an unreadable file ({reason.strip()})", "a checkpoint of nnU-Net") from None
    if not isinstance(content, dict) or (missing := [key for key in NEEDED if key not in content]):
        found = f"no {', '.join(missing)}" if isinstance(content, dict) else type(content).__name__
        raise DataError.of(path, found, f"a checkpoint of nnU-Net with {', '.join(NEEDED)}")
    return content


def _numpy_numbers() -> list[Any]:
    """What a pickled number of numpy consists of, under the names of numpy 1 and 2."""
    scalar = np._core.multiarray.scalar
    types = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")]
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *types]


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one with the zip file's contents."""
    if path.is_dir():
        yield path
        return
    if not zipfile.is_zipfile(path):
        raise DataError.of(path, "no folder or zip file" if path.exists() else "nothing there", EXPECTED)
    with TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        wanted = [name for name in archive.namelist() if name.endswith((*CHECKPOINTS, "dataset.json", "plans.json"))]
        archive.extractall(folder, wanted)  # never leaves the folder
        yield Path(folder)


def _model_folder(root: Path, path: Path) -> Path:
    folders = sorted({file.parent for file in root.rglob("plans.json") if (file.parent / "dataset.json").is_file()})
    folders = [root] if root in folders else folders
    if len(folders) != 1:
        found = ", ".join(folder.name for folder in folders) or "no plans.json with a dataset.json"
        raise DataError.of(path, found, EXPECTED if not folders else "the folder of one of them")
    return folders[0]


def _checkpoints(folder: Path, path: Path, folds: Sequence[str] | None, name: str | None) -> list[Path]:
    found = {file.name.removeprefix("fold_"): file for file in sorted(folder.glob("fold_*")) if file.is_dir()}
    if not found and any((folder / each).is_file() for each in CHECKPOINTS):
        found = {"0": folder}
    if folds is None:
        folds = [fold for fold in found if fold != "all"] or list(found)
    files = []
    for fold in map(str, folds):
        names = CHECKPOINTS if name is None else (name,)
        file = next((found[fold] / each for each in names if fold in found and (found[fold] / each).is_file()), None)
        if file is None:
            raise DataError.of(path, f"no {' or '.join(names)} of fold {fold}", f"one of fold {', '.join(found)}")
        files.append(file)
    if not files:
        raise DataError.of(path, "no fold", EXPECTED)
    return files
