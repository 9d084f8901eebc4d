"""Volumes to predict: what is done already is left alone, what cannot be read stops nothing."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from monai.data import Dataset

from ..errors import DataError, one_line
from .remote import is_url
from .volumes import read_shape, read_volume

DONE, FAILED = "done", "failed"
"""Keys of items that hold no image: nothing is to be done; why nothing can be done."""


class Saver(Protocol):
    """What writes predictions, as :class:`custom.transforms.SaveVolumed`."""

    def paths(self, source: str, name: str | None = None) -> list[Path]:
        """The files that are written for an input of this name."""


class InferenceDataset(Dataset):
    """Cases to predict, one at a time, for an engine with :class:`custom.handlers.case_by_case.CaseByCase`.

    Args:
        data: cases, from :func:`custom.data.find_images`.
        transform: reads and prepares a case.
        saver: knows where a case's prediction goes. It is done if it is whole, has the image's shape, and is no older
            than the image and the weights.
        weights: the files of the network's weights.
        overwrite: predict again what is done.

    Shape:
        an item is what ``transform`` makes of a case; ``{"id": ..., "done": path}`` for one that is done; or ``{"id":
        ..., "failed": message}`` for one that cannot be read.

    Raises:
        DataError: two predictions would go to the same file, or one to its own image; an image is a URL.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Any],
        *,
        saver: Saver,
        weights: str | Sequence[str],
        overwrite: bool = False,
    ) -> None:
        for case in data:
            if is_url(case["image"]):
                raise DataError.of(case["image"], "a URL", "files on this machine")
        super().__init__(list(data), transform)
        self.weights = [weights] if isinstance(weights, str) else list(weights)
        self.overwrite = overwrite
        self.paths = [saver.paths(case["image"], case["id"]) for case in data]
        self._check_paths()

    def _transform(self, index: int) -> dict[str, Any]:
        """One item; called by ``__getitem__``."""
        case = self.data[index]
        try:
            if not self.overwrite and self._is_done(case["image"], self.paths[index]):
                return {"id": case["id"], DONE: str(self.paths[index][0])}
            return self.transform(dict(case))
        except Exception as error:
            return {"id": case["id"], FAILED: one_line(error, case["image"])}

    def _is_done(self, image: str, paths: list[Path]) -> bool:
        if not all(path.is_file() for path in paths):
            return False
        newest = max(os.path.getmtime(path) for path in (image, *self.weights))
        if min(os.path.getmtime(path) for path in paths) < newest:
            return False
        shape = _shape(image)
        try:
            return all(read_volume(path).array.shape == shape for path in paths)
        except DataError:  # cut off, by whatever copied it
            return False

    def _check_paths(self) -> None:
        images = {os.path.abspath(case["image"]) for case in self.data}
        seen: dict[Path, str] = {}
        for case, paths in zip(self.data, self.paths, strict=True):
            for path in paths:
                if os.path.abspath(path) in images:
                    raise DataError.of(path, "an image to predict", "another output_dir, for the predictions")
                if path in seen:
                    found = f"the prediction of both {seen[path]} and {case['image']}"
                    raise DataError.of(path, found, "images with different names")
                seen[path] = case["image"]


def _shape(path: str) -> tuple[int, ...]:
    """Of a volume, by its header where that tells it."""
    header = read_shape(path) if os.path.isfile(path) else None
    if header is None:
        return read_volume(path).array.shape
    return (*header[0], 1, 1)[:3]  # an image may have frames, of which there is one, or be a plane
