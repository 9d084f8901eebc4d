"""Damages files at random, and compares the project's reader with an independent reader.

Mutation k of a format depends on the seed and k alone, so that each can be reproduced. A child process does the work,
so that a crash, a hang or excessive memory use becomes a finding and does not end the campaign.
"""

import importlib
import multiprocessing
import os
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from custom.data import read_volume
from custom.errors import DataError

MODULES = {name: f"scripts.fuzzing.{name}" for name in ("tiff", "nifti", "nrrd", "metaimage", "dicom", "ome_zarr")}

Values = np.ndarray | tuple[np.ndarray, ...]
"""Result of a reader: voxels, optionally with more to compare, such as the affine."""

REFUSED, ALIKE = "refused", "read alike"

_SECONDS = 30.0
"""Time limit for a file of a few thousand voxels, including imports."""
_MEMORY = 8 << 30
"""Memory limit of the child process; damaged headers request more."""
_HEADER = 400
"""Bytes at the beginning of a file, in which half of the generic mutations are placed."""


def voxels_and_affine(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume as the project does."""
    volume = read_volume(path)
    return volume.array, volume.affine


@dataclass(frozen=True)
class Format:
    """A format's part of a campaign.

    Args:
        name: as in :data:`MODULES`.
        make: writes whole files (or folders, for formats of several files) of many kinds into an empty folder, with a
            writer independent of the project, and returns them.
        mutate: changes fields or types of the header in the copy at the path, and returns a description.
        ours: the project's reader; raises :class:`DataError` to refuse.
        theirs: the independent reader; may raise anything.
        coded: names of whole files whose voxels are encoded without a checksum, so that decoders legitimately differ on
            damaged data: these are only changed by ``mutate``, which must not change the encoded data.
    """

    name: str
    make: Callable[[Path, np.random.Generator], list[Path]]
    mutate: Callable[[Path, np.random.Generator], str]
    ours: Callable[[Path], Values]
    theirs: Callable[[Path], Values]
    coded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Finding:
    """A file that was neither refused properly nor read like the independent reader reads it."""

    number: int
    what: str
    problem: str
    path: Path


@dataclass
class Result:
    """Counts of a campaign. ``refused_alone``: refused files that the independent reader reads."""

    name: str
    seed: int
    judged: int = 0
    refused: int = 0
    refused_alone: int = 0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        read = self.judged - self.refused - len(self.findings)
        lines = [
            f"{self.name}: {self.judged} files: {self.refused} refused ({self.refused_alone} of them read by the other "
            f"reader), {read} read alike, {len(self.findings)} findings (seed {self.seed})"
        ]
        for found in self.findings:
            again = f"python scripts/fuzz_readers.py {self.name} --seed {self.seed} --only {found.number}"
            lines += [f"  {found.number}: {found.what}: {found.problem}", f"    {again}; the file: {found.path}"]
        return "\n".join(lines)


def load(name: str) -> Format:
    """Return the format with this name.

    Raises:
        ImportError: a package needed for the comparison is missing.
    """
    return importlib.import_module(MODULES[name]).FORMAT


def run(format: Format, mutations: int, seed: int, folder: Path, only: int | None = None) -> Result:
    """Judge the whole files (number 0) and then damaged copies (1 to ``mutations``), or a single number.

    Args:
        format: the format.
        mutations: number of damaged copies.
        seed: of the random numbers.
        folder: an empty folder; the file of each finding is kept in it.
        only: a single number to judge.
    """
    result = Result(format.name, seed)
    whole = folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    sources = format.make(whole, np.random.default_rng([seed, 0]))
    for number in range(mutations + 1) if only is None else [only]:
        for what, path, source in _damaged(format, seed, number, sources, folder):
            outcome, by_theirs = _in_a_process(format, path, source, folder / "messages.txt")
            result.judged += 1
            result.refused += outcome == REFUSED
            result.refused_alone += outcome == REFUSED and by_theirs
            if outcome not in (REFUSED, ALIKE):
                result.findings.append(Finding(number, what, outcome, path))
            elif path != source:
                _remove(path)
    return result


def _in_a_process(format: Format, path: Path, source: Path, messages: Path) -> tuple[str, bool]:
    """Judge a file in a process, so that a crash, a hang or excessive memory is an outcome, too."""
    context = multiprocessing.get_context("fork")  # formats defined in tests cannot be imported by a new process
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(format, path, source, messages, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(_SECONDS) else (f"more than {_SECONDS:g} s", False)
    except EOFError:
        child.join()
        return f"the process ended with {child.exitcode}", False
    finally:
        child.kill()
        child.join()


def _child(format: Format, path: Path, source: Path, messages: Path, channel: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    with messages.open("ab") as log:  # output of the libraries
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    whole = _read(format.theirs, source) or _read(format.ours, source)
    outcome, by_theirs = _judge(format, path, whole)
    channel.send(("a whole file is refused" if outcome == REFUSED and path == source else outcome, by_theirs))


def _damaged(
    format: Format, seed: int, number: int, sources: Sequence[Path], folder: Path
) -> Iterator[tuple[str, Path, Path]]:
    """Return a description of the damage, the file, and its original."""
    if number == 0:
        yield from ((f"{source.name}, whole", source, source) for source in sources)
        return
    rng = np.random.default_rng([seed, number])
    source = sources[rng.integers(len(sources))]
    path = folder / f"{format.name}_{seed}_{number}" / source.name
    _remove(path.parent)
    path.parent.mkdir()
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    header = rng.random() < 0.5 or source.name in format.coded
    what = format.mutate(path, rng) if header else _damage(path, rng)
    yield f"{source.name}, {what}", path, source


def _damage(path: Path, rng: np.random.Generator) -> str:
    """Change the bytes of a file, or of one file of a folder, and return a description."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        file = files[rng.integers(len(files))]
        return f"{file.relative_to(path)}: {_damage(file, rng)}"
    data = bytearray(path.read_bytes())
    at = int(rng.integers(max(min(len(data), _HEADER if rng.random() < 0.5 else len(data)), 1)))
    length = int(rng.integers(1, 9))
    kind = rng.choice(["flip", "overwrite", "cut", "append", "duplicate"])
    if kind == "flip" and data:
        bit = int(rng.integers(8))
        data[at] ^= 1 << bit
        what = f"bit {bit} of byte {at} flipped"
    elif kind == "overwrite":
        data[at : at + length] = rng.bytes(length)
        what = f"{length} bytes from byte {at} on overwritten"
    elif kind == "duplicate":
        data[at:at] = data[at : at + length]
        what = f"{length} bytes from byte {at} on duplicated"
    elif kind == "append":
        data += rng.bytes(length)
        what = f"{length} bytes appended"
    else:
        at = int(rng.integers(len(data) + 1))
        del data[at:]
        what = f"cut off at byte {at}"
    path.write_bytes(data)
    return what


def _judge(format: Format, path: Path, whole: tuple[np.ndarray, ...] | None) -> tuple[str, bool]:
    """Return :data:`REFUSED`, :data:`ALIKE` or a description; and whether the independent reader succeeds."""
    theirs = _read(format.theirs, path)
    try:
        ours = _arrays(format.ours(path))
    except DataError as error:
        proper = "\n" not in str(error) and str(path) in str(error)
        return REFUSED if proper else f"a refusal that is not one line with the path: {error}", theirs is not None
    except Exception as error:
        return f"{type(error).__name__}: {error}", theirs is not None
    expected = whole if theirs is None else theirs
    difference = "read, though no other reader reads it" if expected is None else _difference(ours, expected)
    return difference or ALIKE, theirs is not None


def _read(reader: Callable[[Path], Values], path: Path) -> tuple[np.ndarray, ...] | None:
    try:
        return _arrays(reader(path))
    except Exception:
        return None


def _arrays(values: Values) -> tuple[np.ndarray, ...]:
    return tuple(map(np.asarray, values)) if isinstance(values, tuple) else (np.asarray(values),)


def _difference(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> str:
    """Describe the difference; empty if there is none. Floating-point numbers may differ by rounding."""
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.shape != other.shape:
            return f"array {index}: shape {mine.shape}, the other reader's is {other.shape}"
        floating = "f" in (mine.dtype.kind, other.dtype.kind)
        scale = np.abs(other).max(initial=0) if floating else 0
        same = np.isclose(mine, other, rtol=1e-6, atol=1e-9 * scale) if floating else mine == other
        if not same.all():
            at = tuple(map(int, np.argwhere(~same)[0]))
            wrong = int((~same).sum())
            return f"array {index}: {wrong} of {same.size} values differ, at {at} {mine[at]} instead of {other[at]}"
    return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
