"""Volumes to predict: what is up to date is left alone, what cannot be read stops nothing."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from ..configuration import without_effect
from ..errors import DataError, one_line
from .predictions import PredictionRecord, Saver
from .remote import is_url

DONE, FAILED = "done", "failed"
"""Keys of items that hold no image: nothing is to be done; why nothing can be done."""
SOURCE, AGAIN = "source", "again"
"""Keys of what is added to a case: its image's path; why it is predicted again, empty if it is for the first time."""


@without_effect("data", "record", "overwrite")
class InferenceDataset(Dataset):
    """Cases to predict, one at a time, for an engine with :class:`custom.handlers.per_case.PerCaseUpdate`.

    Args:
        data: cases, from :func:`custom.data.find_images`.
        transform: reads and prepares a case.
        saver: knows where a case's prediction goes.
        record: knows whether it is there and up to date.
        overwrite: predict again what is done.

    Shape:
        an item is what ``transform`` makes of a case, with the further keys ``source`` and ``again``; ``{"id": ...,
        "done": path}`` for one that is done; or ``{"id": ..., "failed": message}`` for one that cannot be read.

    Raises:
        DataError: two predictions would go to the same file, or one to its own image; an image is a URL.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Any],
        *,
        saver: Saver,
        record: PredictionRecord,
        overwrite: bool = False,
    ) -> None:
        for case in data:
            if is_url(case["image"]):
                raise DataError.of(case["image"], "a URL", "files on this machine")
        super().__init__(list(data), transform)
        self.record = record
        self.overwrite = overwrite
        self.paths = [saver.paths(case["image"], case["id"]) for case in data]
        self._check_paths()

    def _transform(self, index: int) -> dict[str, Any]:
        """One item; called by ``__getitem__``."""
        case = self.data[index]
        try:
            again = self.record.prepare(case["image"], case["id"], overwrite=self.overwrite)
            if again is None:
                return {"id": case["id"], DONE: str(self.paths[index][0])}
            return self.transform({**case, SOURCE: case["image"], AGAIN: again})
        except Exception as error:
            return {"id": case["id"], FAILED: one_line(error, case["image"])}

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
