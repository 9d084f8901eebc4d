"""Dataset for inference that skips finished cases and continues after unreadable ones."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from ..configuration import without_effect
from ..errors import DataError, one_line
from ..system import distributed
from .predictions import PredictionRecord, Saver
from .remote import is_url

DONE, FAILED, SHARED = "done", "failed", "shared"
"""Keys of items without an image: path of the finished prediction; error message; that another rank has the case."""
SOURCE, AGAIN = "source", "again"
"""Keys added to a case: path of its image; why it is predicted again, empty for the first time."""


@without_effect("data", "record", "overwrite")
class InferenceDataset(Dataset):
    """Cases to predict, one at a time, for an engine with :class:`custom.handlers.PerCaseUpdate`.

    With several ranks, the dataset of rank r has the cases r, r + world_size, ...

    Example: ``{"_target_": "custom.data.InferenceDataset", "data": "@cases", "transform": "@preprocessing",
    "saver": "@saver", "record": "@record"}``

    Args:
        data: cases, from :func:`custom.data.find_images`.
        transform: reads and preprocesses a case.
        saver: determines the file of a case's prediction.
        record: determines whether a prediction exists and is up to date.
        overwrite: whether to repeat predictions that are up to date.

    Shape:
        an item is the result of ``transform`` with the additional keys ``source`` and ``again``; ``{"id": ..., "done":
        path}`` for a finished case; or ``{"id": ..., "failed": message}`` for one that cannot be read. All ranks have
        equally many items: ``{"id": ..., "shared": True}`` stands for a case that another rank predicts.

    Raises:
        DataError: two predictions would be written to the same file, or one to its own image; an image is a URL.
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
        self._check_paths(data, saver)
        own = distributed.shared_indices(len(data), distributed.rank(), distributed.world_size())
        super().__init__([data[index] for index in own], transform)
        self.own = len(range(distributed.rank(), len(data), distributed.world_size()))
        """The number of cases that no other rank has; they come first."""
        self.record = record
        self.overwrite = overwrite
        self.paths = [saver.paths(case["image"], case["id"]) for case in self.data]

    def _transform(self, index: int) -> dict[str, Any]:
        """Return one item; called by ``__getitem__``."""
        case = self.data[index]
        if index >= self.own:
            return {"id": case["id"], SHARED: True}
        try:
            again = self.record.prepare(case["image"], case["id"], overwrite=self.overwrite)
            if again is None:
                return {"id": case["id"], DONE: str(self.paths[index][0])}
            return self.transform({**case, SOURCE: case["image"], AGAIN: again})
        except Exception as error:
            return {"id": case["id"], FAILED: one_line(error, case["image"])}

    @staticmethod
    def _check_paths(data: Sequence[Mapping[str, Any]], saver: Saver) -> None:
        images = {os.path.abspath(case["image"]) for case in data}
        seen: dict[Path, str] = {}
        for case in data:
            for path in saver.paths(case["image"], case["id"]):
                if os.path.abspath(path) in images:
                    raise DataError.of(path, "an image to predict", "another output_dir, for the predictions")
                if path in seen:
                    found = f"the prediction of both {seen[path]} and {case['image']}"
                    raise DataError.of(path, found, "images with different names")
                seen[path] = case["image"]
