"""Lists of cases from a dataset folder, URL or data list, and cross-validation folds.

A case is a dictionary with ``id`` (the image's file name without its suffix), ``image`` (path or URL), ``label`` (path,
URL or None) and ``group`` (scroll or patient; the id if unknown).
"""

import csv
import io
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..configuration import without_effect
from ..errors import DataError, nearest
from .contents import contents, shown
from .remote import exists, is_url, join, list_files, read_text
from .volumes import stem, suffix

Case = dict[str, Any]

_LAYOUTS = (
    "one of: train_images/ and train_labels/ (Kaggle Vesuvius); "
    "volume-N.nii[.gz] and segmentation-N.nii[.gz] (LiTS, AIO2025); dataset.json (MSD); a JSON data list"
)

_KEYS = ("id", "image", "label", "group")
"""The allowed keys of an entry of a data list."""
_LITS = re.compile(r"(^|/)(test-)?(?P<kind>volume|segmentation)-(?P<number>[^/]+)\.nii(\.gz)?$")

logger = logging.getLogger(__name__)


@without_effect("dataset_dir")
def find_cases(dataset_dir: str | os.PathLike, *, section: str = "training") -> list[Case]:
    """List the cases of a dataset, whose layout is recognised by its file names.

    Args:
        dataset_dir: a folder or fsspec URL in the layout of Kaggle, LiTS or MSD, or a JSON data list: ``[{"image": ...,
            "label": ...}, ...]`` with optional ``id`` and ``group``, used for every section, or such lists under
            ``"training"`` and ``"test"``; paths in it are relative to the file.
        section: "training" (every image has a label) or "test" (labels are optional).

    Returns:
        cases in natural order of their ids ("2" before "10"), at least one.

    Raises:
        DataError: the folder is missing, empty, unreadable or of unknown layout; an image without its label; a listed
            file that does not exist; a misspelt key; a duplicate id.
    """
    if section not in ("training", "test"):
        raise ValueError(f"section is 'training' or 'test', got {section!r}")
    root = os.fspath(dataset_dir)
    if root.lower().endswith(".json"):
        cases = _from_json(root, section)
    else:
        files = sorted(list_files(root))
        if not files:
            raise DataError.of(root, "an empty folder", _LAYOUTS)
        finder = _layout_of(files)
        if finder is None:
            shown = ", ".join(files[:3])
            raise DataError.of(root, f"{len(files)} files of no known layout ({shown}, ...)", _LAYOUTS)
        cases = finder(root, files, section)
        _note_unused(root, files, cases, section)
    if not cases:
        raise DataError.of(root, f"no {section} cases", _LAYOUTS)
    _check_unique(cases, root)
    if section == "training":
        _check_labelled(cases)
    return sorted(cases, key=lambda case: natural(case["id"]))


@without_effect("path", "output_dir")
def find_images(
    path: str | os.PathLike | Sequence[str | os.PathLike], *, output_dir: str | os.PathLike | None = None
) -> list[Case]:
    """List the images to predict, as items for a MONAI ``Dataset``: cases without ``label``.

    Folders are searched recursively; one warning counts and names what is ignored. The id of an image in a subfolder is
    its relative path with ``_`` for ``/``.

    Args:
        path: one file of any supported format, a DICOM folder, a list of those, a folder (or URL) with such files and
            DICOM folders at any depth, or a dataset folder or data list, of which the test section is used if it has
            sections.
        output_dir: folder of the predictions; files in it are ignored.

    Raises:
        DataError: no image was found.
    """
    if not isinstance(path, (str, os.PathLike)):
        return [case for item in path for case in find_images(item, output_dir=output_dir)]
    root = os.fspath(path)
    if root.lower().endswith(".json"):
        return _unlabelled(find_cases(root, section="test"))
    if os.path.isfile(root) or (suffix(root) and not os.path.isdir(root)):
        if not exists(root):
            raise DataError.of(root, "no such file", "an image")
        return _unlabelled([_case("", root)])
    files = _outside(root, sorted(list_files(root)), output_dir)
    sections = _layout_of(files) in (_kaggle_cases, _msd_cases)
    cases = find_cases(root, section="test") if sections else _images_below(root, files)
    _check_unique(cases, root)
    return sorted(_unlabelled(cases), key=lambda case: natural(case["id"]))


def fold_cases(
    cases: Sequence[Case], *, fold: int = 0, n_folds: int = 5, subset: str = "train", by: str = "id", seed: int = 0
) -> list[Case]:
    """Return the training or validation cases of one cross-validation fold.

    Args:
        cases: from :func:`find_cases`.
        fold: index of the fold that is held out, from 0.
        n_folds: number of folds; with 1 or less all cases are returned for every subset.
        subset: "train", "validation", or "all".
        by: "id" (volumes) or "group" (scrolls, patients): the unit that is never split. Folds have similar numbers of
            cases.
        seed: determines the assignment to folds.

    Raises:
        DataError: fewer volumes or groups than folds, or an argument that is none of the above.
    """
    if subset not in ("train", "validation", "all"):
        raise DataError.of("subset", repr(subset), "train, validation or all")
    if by not in ("id", "group"):
        raise DataError.of("fold_by", repr(by), "id or group")
    if subset == "all" or n_folds <= 1:
        return list(cases)
    if not 0 <= fold < n_folds:
        raise DataError.of("fold", str(fold), f"0 to {n_folds - 1} (n_folds is {n_folds})")
    held_out = _fold_of_each(cases, n_folds, by, seed)
    return [case for case in cases if (held_out[case[by]] == fold) == (subset == "validation")]


def natural(text: str) -> list[tuple[int, int | str]]:
    """Return a sorting key that orders numbers within names by value."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _layout_of(files: list[str]) -> Callable[[str, list[str], str], list[Case]] | None:
    folders = {name.split("/")[0] for name in files if "/" in name}
    if folders & {"train_images", "test_images"}:
        return _kaggle_cases
    if "dataset.json" in files:
        return _msd_cases
    if any(_LITS.search(name) for name in files):
        return _lits_cases
    return None


def _images_below(root: str, files: list[str]) -> list[Case]:
    """All images of a folder without training and test sections."""
    found = contents(root, files)
    images, training = found.images, []
    if any(_is_lits_test(name) for name in images):
        training = [name for name in images if _LITS.search(name) and not _is_lits_test(name)]
        images = [name for name in images if name not in training]
    found.note_left_out(root, len(images), [("training volumes beside test volumes", training)])
    if not images:
        raise DataError.of(root, f"{len(files)} files and no image among them", "images, DICOM folders or a dataset")
    ids = [_id_below(root, name) for name in images]
    times = Counter(ids)
    # Equal names with different suffixes, such as a.nii.gz and a.mha: the suffix becomes part of the id.
    ids = [
        re.sub(r"[/.]", "_", name) if name and times[key] > 1 else key for name, key in zip(images, ids, strict=True)
    ]
    return [
        _case(root, name, name=key) if name else _case("", root, name=key)
        for name, key in zip(images, ids, strict=True)
    ]


def _id_below(root: str, name: str) -> str:
    if not name or _LITS.search(name):
        return stem(name or os.path.abspath(root))
    return stem(name.replace("/", "_"))


def _outside(root: str, files: list[str], output_dir: str | os.PathLike | None) -> list[str]:
    """The files outside of the folder of predictions."""
    if output_dir is None or is_url(root) or is_url(output_dir):
        return files
    inside = os.path.relpath(os.path.realpath(output_dir), os.path.realpath(root)).replace(os.sep, "/")
    if inside == ".":
        raise DataError.of(output_dir, "the folder of the images", "another output_dir, for the predictions")
    return [name for name in files if not name.startswith(f"{inside}/")]


def _note_unused(root: str, files: list[str], cases: list[Case], section: str) -> None:
    """Log which images of a dataset are used by no case, separately for those of the other section."""
    used = {case[key] for case in cases for key in ("image", "label")}
    unused = [name for name in files if suffix(name) and join(root, name) not in used]
    other = [name for name in unused if _is_test(name) != (section == "test")]
    stray = [name for name in unused if name not in set(other)]
    if other:
        name = "training" if section == "test" else "test"
        level = logging.WARNING if section == "test" else logging.INFO
        words = "%s: %d image files of its %s section are not used here: %s"
        logger.log(level, words, root, len(other), name, shown(other))
    if stray:
        logger.warning("%s: %d image files are in no case and left out: %s", root, len(stray), shown(stray))


def _is_test(name: str) -> bool:
    """Whether the path of a file assigns it to the test section (MSD: ``imagesTs``)."""
    return any(part.lower().startswith("test") or part.endswith("Ts") for part in name.split("/"))


def _is_lits_test(name: str) -> bool:
    return bool(_LITS.search(name)) and _is_test(name)


def _kaggle_cases(root: str, files: list[str], section: str) -> list[Case]:
    part = "train" if section == "training" else "test"
    volumes = [name for name in files if name.count("/") == 1 and suffix(name)]
    labels = {stem(name): name for name in volumes if name.startswith(f"{part}_labels/")}
    images = [name for name in volumes if name.startswith(f"{part}_images/")]
    groups = _scroll_of_each(root, f"{part}.csv") if f"{part}.csv" in files else {}
    missing = sorted(groups.keys() - {stem(name) for name in images}, key=natural)
    if missing:
        words = "%s: %d ids of %s.csv have no image and are left out: %s"
        logger.warning(words, root, len(missing), part, shown(missing))
    return [_case(root, name, labels.get(stem(name)), groups.get(stem(name))) for name in images]


def _scroll_of_each(root: str, name: str) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(read_text(join(root, name))))
    if not {"id", "scroll_id"} <= set(rows.fieldnames or ()):
        raise DataError.of(join(root, name), f"columns {rows.fieldnames}", "id and scroll_id")
    return {row["id"]: row["scroll_id"] for row in rows}


def _lits_cases(root: str, files: list[str], section: str) -> list[Case]:
    images, labels = [], {}
    for name in files:
        match = _LITS.search(name)
        if not match or _is_test(name) != (section == "test"):
            continue
        if match["kind"] == "volume":
            images.append((match["number"], name))
        elif match["number"] in labels:
            found = f"two segmentations of one number ({labels[match['number']]}, {name})"
            raise DataError.of(root, found, "one of each number")
        else:
            labels[match["number"]] = name
    return [_case(root, name, labels.get(number)) for number, name in images]


def _msd_cases(root: str, files: list[str], section: str) -> list[Case]:
    return _from_json(join(root, "dataset.json"), section)


def _from_json(path: str, section: str) -> list[Case]:
    if not exists(path):
        raise DataError.of(path, "no such file", "a JSON data list")
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError.of(path, f"no JSON ({error})", "a data list") from None
    if isinstance(content, dict):
        others = {key: len(value) for key, value in content.items() if key != section and _is_list_of_images(value)}
        content = content.get(section, [])
        if others:
            words = ", ".join(f"{key} ({number})" for key, number in others.items())
            level = logging.INFO if others.keys() <= {"training", "test"} and section == "training" else logging.WARNING
            logger.log(level, "%s: its section %s (%d) is used, not %s", path, section, len(content), words)
    folder = path.rsplit("/", 1)[0] if is_url(path) else os.path.dirname(os.path.abspath(path))
    _check_keys(content, path)
    return [_listed(entry, folder, path) for entry in content]


def _is_list_of_images(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    first = value[0].get("image") if isinstance(value[0], dict) else value[0]
    return isinstance(first, str) and bool(suffix(first))


def _listed(entry: Any, folder: str, path: str) -> Case:
    entry = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise DataError.of(path, f"the entry {json.dumps(entry)[:80]}", 'entries like {"image": ..., "label": ...}')
    case = _case(folder, entry["image"], entry.get("label") or None, entry.get("group"), entry.get("id"))
    for file in (case["image"], case["label"]):
        if file and not is_url(file) and not exists(file):
            raise DataError.of(path, f"the entry {file}, which does not exist", "entries of existing files")
    return case


def _check_keys(entries: Iterable[Any], path: str) -> None:
    """Raise for a misspelt key; other keys, such as "fold" in MONAI's lists, are named in a warning."""
    unused = {str(key) for entry in entries if isinstance(entry, dict) for key in entry} - {*_KEYS}
    for key in sorted(unused):
        meant = nearest(key, _KEYS)
        if meant is not None:
            raise DataError.of(path, f"entries with {key!r}, which nothing reads", repr(meant))
    if unused:
        logger.warning("%s: nothing reads %s of its entries", path, ", ".join(map(repr, sorted(unused))))


def _case(folder: str, image: str, label: str | None = None, group: Any = None, name: Any = None) -> Case:
    """A case whose files are relative to a folder, unless they are absolute."""
    name = stem(image) if name is None else str(name)
    group = name if group in (None, "") else group  # 0 is a group
    label = None if label is None else join(folder, label)
    return {"id": name, "image": join(folder, image), "label": label, "group": str(group)}


def _unlabelled(cases: Iterable[Case]) -> list[Case]:
    return [{key: value for key, value in case.items() if key != "label"} for case in cases]


def _check_unique(cases: list[Case], root: str) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        if case["id"] in seen:
            raise DataError.of(root, f"two cases {case['id']!r}: {seen[case['id']]['image']}, {case['image']}", "one")
        seen[case["id"]] = case


def _check_labelled(cases: list[Case]) -> None:
    bare = [case for case in cases if case["label"] is None]
    if bare:
        others = f" (and {len(bare) - 1} more images without one)" if len(bare) > 1 else ""
        raise DataError.of(bare[0]["image"], f"no label for it{others}", "a label for every training image")


def _fold_of_each(cases: Sequence[Case], n_folds: int, by: str, seed: int) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for case in cases:
        sizes[case[by]] += 1
    if len(sizes) < n_folds:
        kind = "volumes" if by == "id" else "groups"
        raise DataError(f"{n_folds} folds: found {len(sizes)} {kind}, expected at least {n_folds}")
    keys = sorted(sizes, key=natural)
    keys = [keys[k] for k in np.random.default_rng(seed).permutation(len(keys))]
    loads, fold_of = [0] * n_folds, {}
    for key in sorted(keys, key=lambda key: -sizes[key]):  # the largest first, each into the smallest fold
        fold_of[key] = loads.index(min(loads))
        loads[fold_of[key]] += sizes[key]
    return fold_of
