"""What the predictions in a folder were made from, so that only those are kept that would be made alike."""

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
    """What writes predictions, as :class:`custom.transforms.SaveVolumed`."""

    output_dir: Path

    def paths(self, source: str, name: str | None = None) -> list[Path]:
        """The files that are written for an input of this name."""


@without_effect()
class PredictionRecord:
    """``predictions.json`` in the folder of the predictions: of each file the image, weights, settings and its hash.

    A prediction is up to date if all four are as they are noted. Anything else is in the way of a new one: what was
    predicted from something else is removed before, so that it is never taken for the answer; a file that was not
    written here, or was changed since, is renamed and stays.

    A case is noted before it is predicted and completed after it was written, so that a kill between the two costs its
    prediction and no more. The file is replaced as a whole, under a lock: several processes can share a folder.

    Args:
        saver: knows the folder, and which files are written for an image.
        weights: the files of the network's weights.
        configuration: of the run; what can change its results decides, too.
    """

    def __init__(self, *, saver: Saver, weights: str | Sequence[str], configuration: Configuration) -> None:
        self.saver = saver
        self.weights = weights
        self.configuration = configuration

    def prepare(self, image: str, name: str | None = None, *, overwrite: bool = False) -> str | None:
        """Make way for the prediction of an image, unless it is there.

        Args:
            image: a file or a DICOM folder.
            name: of its case; by default that of the file.
            overwrite: make way in any case.

        Returns:
            None if the prediction is up to date; otherwise why it is made again, which is empty where there was none.
        """
        try:
            made_from = {"image": file_identity(image), "weights": self._hashes, "settings": self._digest}
        except OSError:
            return ""  # the reader says what is wrong with it
        paths = self.saver.paths(image, name)
        with self._changing() as record:
            whys = [self._why_not(path, record, made_from) for path in paths]
            if not overwrite and not any(whys) and None not in whys:
                return None
            for path, why in zip(paths, whys, strict=True):
                entry = record["predictions"].get(path.name)
                if why is not None and not (entry and made_from.items() <= entry.items() and "sha256" not in entry):
                    _clear(path, keep=not overwrite and (entry is None or why == CHANGED))
                record["predictions"][path.name] = made_from
            record["settings"][self._digest] = self.settings
        return next(filter(None, whys), "")

    def complete(self, image: str, name: str | None = None, **more: Any) -> None:
        """Note that the prediction of an image has been written.

        Args:
            image, name: as it was prepared.
            more: what else is to be noted, such as a number of views.
        """
        with self._changing() as record:
            for path in self.saver.paths(image, name):
                entry = record["predictions"].get(path.name)
                if entry and (entry["weights"], entry["settings"]) == (self._hashes, self._digest) and path.is_file():
                    record["predictions"][path.name] = {**entry, "sha256": sha256(path), **more}

    def noted(self, image: str, name: str | None = None) -> dict[str, Any]:
        """What is noted of an image's prediction."""
        return self._read()["predictions"].get(self.saver.paths(image, name)[0].name, {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What can change a prediction; asked for when the first one is prepared, with all components made."""
        return self.configuration.effective()

    @cached_property
    def _hashes(self) -> list[str]:
        return weights_identity(self.weights)

    @cached_property
    def _digest(self) -> str:
        text = json.dumps(self.settings, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _why_not(self, path: Path, record: dict[str, Any], made_from: dict[str, Any]) -> str | None:
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
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or one that somebody has changed
            return {"settings": {}, "predictions": {}}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The record, which is written again if it was changed meanwhile."""
        folder = self.saver.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            record = self._read()
            before = json.dumps(record)
            yield record
            used = {entry["settings"] for entry in record["predictions"].values()}
            record["settings"] = {key: value for key, value in record["settings"].items() if key in used}
            text = json.dumps(record, indent=1, default=repr)
            if json.dumps(record, default=repr) != before:
                write_whole(folder / RECORD, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def _clear(path: Path, *, keep: bool) -> None:
    """Take a file away; to another name if it is not known to be a prediction."""
    if not keep:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"{path.name}.replaced_{time.strftime('%Y%m%d_%H%M%S')}")
    os.replace(path, aside)
    logger.warning("%s: found a file that is not as a prediction was written here; it is now %s", path, aside)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go when it dies. Not all network file systems can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
