"""Pairs predictions with labels by file name."""

import re
from pathlib import Path

from ..data.cases import natural
from ..data.contents import WRITER_SUFFIX
from ..data.remote import list_files
from ..data.volumes import SUFFIXES, stem, suffix
from ..errors import DataError

_LITS = re.compile(r"(?:test-)?(?:volume|segmentation)[-_]0*(\d+)$")


def pair_files(predictions: str | Path, labels: str | Path) -> dict[str, tuple[Path, Path]]:
    """Pair the volumes of two folders, including subfolders.

    A pair has equal names without suffix, or LiTS names: ``volume-7`` or ``segmentation-7`` with ``segmentation-7``;
    leading zeros and an appended ``_pred``, ``_seg`` etc. are ignored. If the labels' folder has ``segmentation-*``
    files, its other volumes are ignored as images; an MSD layout is recognised.

    Returns:
        case id (the prediction's name) to (prediction, label), in natural order.

    Raises:
        DataError: a folder is missing or contains no volume; a prediction without label or a label without prediction;
            duplicate names.
    """
    found, true = volumes_in(Path(predictions)), _labels(Path(labels))
    by_key: dict[str, list[str]] = {}
    for name in true:
        by_key.setdefault(_key(name), []).append(name)

    pairs, taken = {}, {}
    for name, path in found.items():
        matches = [name] if name in true else by_key.get(_key(name), [])
        if len(matches) != 1:
            several = f"{len(matches)} labels for it ({', '.join(matches)})" if matches else "no label for it"
            raise DataError.of(path, f"{several} in {labels}", "one of the same name or of the same LiTS number")
        label = matches[0]
        if label in taken:
            raise DataError.of(path, f"a second prediction beside {taken[label]}", f"one prediction for {true[label]}")
        taken[label] = path
        pairs[name if label == name else WRITER_SUFFIX.sub("", name)] = (path, true[label])
    missing = [str(true[name]) for name in true if name not in taken]
    if missing:
        more = f" and for {len(missing) - 1} more labels" if len(missing) > 1 else ""
        raise DataError.of(predictions, f"no prediction for {missing[0]}{more}", "one prediction for every label")
    return pairs


def volumes_in(folder: Path) -> dict[str, Path]:
    """Return all volumes of a folder and its subfolders by name without suffix, in natural order.

    Raises:
        DataError: the folder is missing or contains no volume; duplicate names.
    """
    return _by_name(_paths(folder))


def _labels(folder: Path) -> dict[str, Path]:
    paths = _paths(folder / "labelsTr" if (folder / "labelsTr").is_dir() else folder)
    return _by_name([path for path in paths if "segmentation" in path.name] or paths)


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError.of(folder, "no such folder", "a folder of volumes")
    paths = [folder / name for name in list_files(str(folder)) if suffix(name)]
    if not paths:
        raise DataError.of(folder, "no volume", f"files ending in one of {', '.join(SUFFIXES)}")
    return paths


def _by_name(paths: list[Path]) -> dict[str, Path]:
    volumes: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (natural(stem(path)), path)):
        if stem(path) in volumes:
            raise DataError.of(path, f"the name of {volumes[stem(path)]}", "one volume of a name")
        volumes[stem(path)] = path
    return volumes


def _key(name: str) -> str:
    name = WRITER_SUFFIX.sub("", name)
    lits = _LITS.match(name)
    return f"lits-{lits[1]}" if lits else name
