"""Classifies the files of a folder as images, DICOM series, labels or others.

Used for images to predict, for datasets, and for folders of predictions.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .dicom import DICOM_SUFFIXES, holds_volume, is_dicom
from .remote import is_url, join
from .volumes import suffix

UNREAD_SUFFIXES = (
    *(".zarr", ".hdr", ".nhdr", ".mgz", ".mgh", ".mnc", ".gipl", ".dcm.gz"),
    *(".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"),
)
"""Suffixes of unsupported formats. Such files count as images, so that they raise an error and are not ignored."""

WRITER_SUFFIX = re.compile(r"[-_](pred|prediction|seg|segmentation|mask|label)$")
"""Suffixes that programs append to an image's name for predictions and labels."""

_LABEL_WORDS = {"label", "labels", "labelstr", "labelsts", "mask", "masks", "segmentation", "segmentations"}
_SHOWN = 3

logger = logging.getLogger(__name__)


@dataclass
class Contents:
    """Names relative to a folder; ``""`` is the folder itself, if it holds a DICOM series."""

    images: list[str] = field(default_factory=list)
    """Files, and folders with a DICOM series."""
    labels: list[str] = field(default_factory=list)
    """Labels and predictions, by their names or their folder's."""
    no_volumes: list[str] = field(default_factory=list)
    """DICOM files of folders without any slice: reports, localizers, screenshots."""
    no_images: list[str] = field(default_factory=list)

    def note_left_out(self, root: str, taken: int, others: Iterable[tuple[str, Sequence[str]]] = ()) -> None:
        """Log one warning that counts and names what is ignored, if anything is."""
        kinds = [
            *others,
            ("labels by their names", self.labels),
            ("DICOM files of no volume", self.no_volumes),
            ("files that are no images", self.no_images),
        ]
        parts = [f"{len(names)} {kind} ({shown(names)})" for kind, names in kinds if names]
        if parts:
            logger.warning("%s: %d images are taken; left out are %s", root, taken, ", ".join(parts))


def contents(root: str, files: Iterable[str]) -> Contents:
    """Classify the files of a folder or URL, by their names from :func:`custom.data.remote.list_files`.

    DICOM files without a known suffix are recognised by content, in local folders only.
    """
    found = Contents()
    series: dict[str, list[str]] = {}
    others = []
    for name in files:
        end = suffix(name)
        if end in DICOM_SUFFIXES or (not end and _is_dicom(root, name)):
            series.setdefault(os.path.dirname(name), []).append(name)
        elif end or name.lower().endswith(UNREAD_SUFFIXES):
            (found.labels if is_label(name) else found.images).append(name)
        else:
            others.append(name)
    for folder, names in series.items():
        if folder and is_label(f"{folder}/"):
            found.labels.append(folder)
        elif is_url(root) or holds_volume([Path(root, name) for name in names]):
            found.images.append(folder)
        else:
            found.no_volumes += names
    with_data = {_without_ending(name) for name in found.images if name.lower().endswith((".mhd", ".hdr", ".nhdr"))}
    found.no_images = [name for name in others if _without_ending(name) not in with_data]
    if not found.images and found.labels:  # the user means these then
        found.images, found.labels = found.labels, []
    elif not found.images:
        folders = dict.fromkeys(map(os.path.dirname, found.no_volumes))
        found.images, found.no_volumes = list(folders), []
    return found


def is_label(name: str) -> bool:
    """Whether a path (with ``/``) names a label or a prediction."""
    *folders, stem = _without_ending(name).lower().split("/")
    words = re.split(r"[-_. ]", stem)
    inside = any(_LABEL_WORDS & set(re.split(r"[-_. ]", folder)) for folder in folders)
    return inside or bool(_LABEL_WORDS & {words[0], words[-1]} or WRITER_SUFFIX.search(stem) or stem == "seg")


def shown(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)


def _is_dicom(root: str, name: str) -> bool:
    if is_url(root):
        return False
    path = join(root, name)
    try:
        return os.path.isfile(path) and is_dicom(path)
    except OSError:  # cannot be opened
        return False


def _without_ending(name: str) -> str:
    end = suffix(name) or next((end for end in UNREAD_SUFFIXES if name.lower().endswith(end)), "")
    return name[: -len(end)] if end else os.path.splitext(name)[0]
