"""A record of what each prediction was computed from, to reuse those that are up to date."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..configuration import Configuration, differences, without_effect
from ..system.files import write_whole
from ..system.identity import file_identity, sha256, weights_identity

RECORD = "predictions.json"
MADE_FROM = {"image", "weights", "settings"}
CHANGED = "another content than was written"

logger = logging.getLogger(__name__)


class Saver(Protocol):
    """Writes predictions, such as :class:`custom.transforms.SaveVolumed`."""

    output_dir: Path

    def paths(self, source: str, name: str | None = None) -> list[Path]:
        """Return the files that are written for an input of this name."""


@without_effect()
class PredictionRecord:
    """``predictions.json`` in the folder of the predictions: image, weights, settings and hash of each file.

    A prediction is up to date if all four agree. Before a new prediction, an outdated one is deleted, so that it is not
    mistaken for the result; a file that was not written here, or was modified, is renamed and kept.

    Cases are recorded before prediction and completed after writing, so that an interruption costs the predictions in
    progress at most. The file is replaced atomically, under a lock: several processes can share a folder.

    Example: ``{"_target_": "custom.data.PredictionRecord", "saver": "@saver", "weights": "models/model.pt",
    "configuration": "@configuration"}``

    Args:
        saver: determines the folder, and the files written for an image.
        weights: the file or files of the network's weights.
        configuration: the run's configuration, for the settings that can change predictions.
    """

    def __init__(self, *, saver: Saver, weights: str | Sequence[str], configuration: Configuration) -> None:
        self.saver = saver
        self.weights = weights
        self.configuration = configuration

    def prepare(self, image: str, name: str | None = None, *, overwrite: bool = False) -> str | None:
        """Prepare for predicting an image, unless its prediction is up to date.

        Args:
            image: a file or a DICOM folder.
            name: of its case; by default that of the file.
            overwrite: whether to repeat the prediction in any case.

        Returns:
            None if the prediction is up to date; otherwise why it is repeated, empty if there was none.
        """
        try:
            made_from = {"image": file_identity(image), "weights": self._hashes, "settings": self._digest}
        except OSError:
            return ""  # reading it will raise the error
        paths = self.saver.paths(image, name)
        with self._locked_record() as record:
            whys = [self._why_outdated(path, record, made_from) for path in paths]
            if not overwrite and not any(whys) and None not in whys:
                return None
            for path, why in zip(paths, whys, strict=True):
                entry = record["predictions"].get(path.name)
                if why is not None and not (entry and made_from.items() <= entry.items() and "sha256" not in entry):
                    _remove(path, keep=not overwrite and (entry is None or why == CHANGED))
                record["predictions"][path.name] = made_from
            record["settings"][self._digest] = self.settings
        return next(filter(None, whys), "")

    def complete(self, image: str, name: str | None = None, **more: Any) -> None:
        """Record that the prediction of an image has been written, with more entries, such as a number of views."""
        with self._locked_record() as record:
            for path in self.saver.paths(image, name):
                entry = record["predictions"].get(path.name)
                if entry and (entry["weights"], entry["settings"]) == (self._hashes, self._digest) and path.is_file():
                    record["predictions"][path.name] = {**entry, "sha256": sha256(path), **more}

    def noted(self, image: str, name: str | None = None) -> dict[str, Any]:
        """Return what is recorded for an image's prediction."""
        return self._read()["predictions"].get(self.saver.paths(image, name)[0].name, {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings that can change a prediction; evaluated with the first prediction, when all components exist."""
        return self.configuration.effective()

    @cached_property
    def _hashes(self) -> list[str]:
        return weights_identity(self.weights)

    @cached_property
    def _digest(self) -> str:
        text = json.dumps(self.settings, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _why_outdated(self, path: Path, record: dict[str, Any], made_from: dict[str, Any]) -> str | None:
        """Why a file is not up to date; empty if it is, None if there is no file."""
        if not os.path.lexists(path):
            return None
        entry = record["predictions"].get(path.name)
        if entry is None:
            return "unknown origin"
        if "sha256" not in entry:
            return "a run that was cut off"
        if not path.is_file() or sha256(path) != entry["sha256"]:
            return CHANGED
        if entry["image"] != made_from["image"]:
            return "another image of the same name"
        if entry["weights"] != made_from["weights"]:
            return "other weights"
        if entry["settings"] != made_from["settings"]:
            saved = record["settings"].get(entry["settings"], {})
            return f"other settings ({differences(saved, self.settings)})"
        return ""

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads((self.saver.output_dir / RECORD).read_text(encoding="utf-8"))
            predictions = {name: entry for name, entry in record["predictions"].items() if entry.keys() >= MADE_FROM}
            return {"settings": dict(record["settings"]), "predictions": predictions}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, or edited by hand
            return {"settings": {}, "predictions": {}}

    @contextlib.contextmanager
    def _locked_record(self) -> Iterator[dict[str, Any]]:
        """Context with the record under a lock, where the file system has locks; it is written if it was changed."""
        folder = self.saver.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            record = self._read()
            before = json.dumps(record)
            yield record
            used = {entry["settings"] for entry in record["predictions"].values()}
            record["settings"] = {key: value for key, value in record["settings"].items() if key in used}
            text = json.dumps(record, indent=1, default=repr)
            if json.dumps(record, default=repr) != before:
                write_whole(folder / RECORD, lambda file: file.write_text(text + "\n", encoding="utf-8"))
        finally:
            os.close(handle)


def _remove(path: Path, *, keep: bool) -> None:
    """Delete a file, or rename it if it is not known to be a prediction."""
    if not keep:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"{path.name}.replaced_{time.strftime('%Y%m%d_%H%M%S')}")
    os.replace(path, aside)
    logger.warning("%s: found a file that is not an unmodified prediction of this package; renamed to %s", path, aside)
