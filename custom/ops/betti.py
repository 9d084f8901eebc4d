"""Betti matching of the topological features of a prediction with those of a label.

Stucki et al., "Topologically faithful image segmentation via induced matching of persistence barcodes", ICML 2023, and
"Efficient Betti matching enables topology-aware 3D segmentation via persistent homology", 2024. The computation is done
by the compiled extension ``betti_matching`` in the wheel ``topolosses``. Only that file is loaded: importing the
package would require torchvision and OpenCV, and tie the installation to one build of torch.
"""

import functools
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

PACKAGE = "topolosses"
INSTALL = "pip install --no-deps topolosses==0.2.0"


class BettiUnavailableError(RuntimeError):
    """The compiled extension is not installed, or not available for this platform."""


class Bars(NamedTuple):
    """Features of one homology dimension: voxels of birth and death.

    Both are (N, 3) int64 voxel coordinates in the volume that has the features; the birth and death values are those of
    the volume there, ``volume[tuple(birth.T)]``.
    """

    birth: np.ndarray
    death: np.ndarray


class Matching(NamedTuple):
    """Betti matching of a prediction and a label; every field has one :class:`Bars` for each dimension 0, 1, 2.

    Row i of ``prediction_matched[k]`` is matched with row i of ``label_matched[k]``.
    """

    prediction_matched: tuple[Bars, ...]
    label_matched: tuple[Bars, ...]
    prediction_unmatched: tuple[Bars, ...]
    label_unmatched: tuple[Bars, ...]

    def counts(self) -> np.ndarray:
        """Return (3, 3) int64: for each dimension the numbers of matched, predicted and labelled features."""
        matched, only_prediction, only_label = (
            np.array([len(bars.birth) for bars in group], np.int64)
            for group in (self.prediction_matched, self.prediction_unmatched, self.label_unmatched)
        )
        return np.stack([matched, matched + only_prediction, matched + only_label], axis=1)


def betti_available() -> bool:
    """Whether the compiled extension is installed for this platform and Python."""
    return _extension_file() is not None


def betti_extension() -> ModuleType:
    """Load the compiled module without its package.

    Raises:
        BettiUnavailableError: with the command that installs it.
    """
    path = _extension_file()
    if path is None:
        raise BettiUnavailableError(
            f"Betti matching needs the compiled part of {PACKAGE}, which is not here: {INSTALL} "
            "(Linux on x86-64, Python 3.11 to 3.13)"
        )
    return _load(path)


def match_betti(prediction: np.ndarray, label: np.ndarray) -> Matching:
    """Match the features of two volumes in their sublevel filtration (low values first).

    A feature is a connected component (dimension 0, 6-connected), a tunnel (1) or a cavity (2) that is born at one
    value and dies at a higher one. The first component of a volume never dies and is not listed (reduced homology). For
    a foreground probability p pass ``1 - p``; for a mask its inverse. Volumes of n voxels temporarily need about 1.5 kB
    * n of memory.

    Args:
        prediction: (D, H, W) of any real type; compared in float64.
        label: of the same shape.

    Raises:
        BettiUnavailableError: the extension is not installed.
        ValueError: shapes differ or are not 3-D.
    """
    if prediction.shape != label.shape or prediction.ndim != 3:
        raise ValueError(f"expected two volumes (D, H, W) of one shape, got {prediction.shape} and {label.shape}")
    (found,) = betti_extension().compute_matching(
        [np.ascontiguousarray(prediction)],
        [np.ascontiguousarray(label)],
        include_input1_unmatched_pairs=True,
        include_input2_unmatched_pairs=True,
    )
    return Matching(
        _bars(found.input1_matched_birth_coordinates, found.input1_matched_death_coordinates),
        _bars(found.input2_matched_birth_coordinates, found.input2_matched_death_coordinates),
        _bars(found.input1_unmatched_birth_coordinates, found.input1_unmatched_death_coordinates),
        _bars(found.input2_unmatched_birth_coordinates, found.input2_unmatched_death_coordinates),
    )


def _bars(births: Sequence[np.ndarray], deaths: Sequence[np.ndarray]) -> tuple[Bars, ...]:
    return tuple(Bars(birth, death) for birth, death in zip(births, deaths, strict=True))


def _extension_file() -> Path | None:
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    names = {f"betti_matching{suffix}" for suffix in EXTENSION_SUFFIXES}
    found = [Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.name in names]
    return next((path for path in found if path.is_file()), None)


@functools.cache
def _load(path: Path) -> ModuleType:
    loader = ExtensionFileLoader("betti_matching", str(path))
    try:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
    except ImportError as error:  # built for another libc
        raise BettiUnavailableError(f"the compiled part of {PACKAGE} does not load on this system: {error}") from error
    return module
