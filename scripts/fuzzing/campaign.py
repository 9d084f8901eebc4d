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
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from custom.data import read_volume
from custom.errors import DataError

MODULES = {name: f"scripts.fuzzing.{name}" for name in ("tiff", "nifti", "nrrd", "metaimage", "dicom", "ome_zarr")}

Values = tuple[np.ndarray, ...]
"""Result of a reader: voxels, and more to compare, such as the affine."""

REFUSED, ALIKE = "refused", "read alike"

_SECONDS = 30.0
"""Time limit for a file of a few thousand voxels, including imports."""
_MEMORY = 8 << 30
"""Memory limit of the child process; damaged headers request more."""
_HEADER = 400
"""Bytes at the beginning of a file, in which half of the generic mutations are placed."""


def voxels_and_affine(path: Path) -> Values:
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
        mutate: changes fields or types in the content of a header's file, and returns it with a description.
        ours: the project's reader; raises :class:`DataError` to refuse.
        theirs: the independent reader; may raise anything.
        coded: names of whole files whose voxels are encoded without a checksum, so that decoders legitimately differ on
            damaged data: these are only changed by ``mutate``, which must not change the encoded data.
        headers: endings of the names of the files in a folder that ``mutate`` changes.
    """

    name: str
    make: Callable[[Path, np.random.Generator], list[Path]]
    mutate: Callable[[bytes, np.random.Generator], tuple[bytes, str]]
    ours: Callable[[Path], Values]
    theirs: Callable[[Path], Values]
    coded: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ("",)


class Finding(NamedTuple):
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
        folder: where the files are written; those of findings are kept.
        only: a single number to judge.
    """
    result = Result(format.name, seed)
    whole = folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    sources = format.make(whole, np.random.default_rng([seed, 0]))
    for number in range(mutations + 1) if only is None else [only]:
        files = [(f"{source.name}, whole", source, source) for source in sources]
        if number > 0:
            files = [_damaged(format, np.random.default_rng([seed, number]), sources, folder / f"{seed}_{number}")]
        for what, path, source in files:
            outcome, by_theirs = _in_a_process(format, path, source, folder / "messages.txt")
            result.judged += 1
            result.refused += outcome == REFUSED
            result.refused_alone += outcome == REFUSED and by_theirs
            if outcome not in (REFUSED, ALIKE):
                result.findings.append(Finding(number, what, outcome, path))
            elif path != source:
                shutil.rmtree(path.parent)
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


def _damaged(format: Format, rng: np.random.Generator, sources: list[Path], folder: Path) -> tuple[str, Path, Path]:
    """Return a description of the damage, the file, and its original."""
    source = sources[rng.integers(len(sources))]
    path = folder / source.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    by_format = rng.random() < 0.5 or source.name in format.coded
    if by_format:
        files = [file for file in files if file.name.endswith(format.headers)]
    elif len(files) > 1 and rng.random() < 0.2:
        return f"{source.name}, {_damage_folder(files, rng)}", path, source
    file = files[rng.integers(len(files))]
    content, what = (format.mutate if by_format else _damage)(file.read_bytes(), rng)
    file.write_bytes(content)
    return f"{file.relative_to(folder)}, {what}", path, source


def _damage(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change some bytes, and return a description."""
    at = int(rng.integers(max(min(len(data), _HEADER if rng.random() < 0.5 else len(data)), 1)))
    end = at + int(rng.integers(1, 9))
    bit = int(rng.integers(8))
    changed = {
        f"bit {bit} flipped": data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :],
        f"overwritten up to byte {end}": data[:at] + rng.bytes(end - at) + data[end:],
        f"repeated up to byte {end}": data[:end] + data[at:],
        "cut off": data[:at],
        f"{end - at} bytes appended": data + rng.bytes(end - at),
    }
    what = str(rng.choice(list(changed)))
    return changed[what], f"from byte {at} on: {what}"


def _damage_folder(files: list[Path], rng: np.random.Generator) -> str:
    """Remove or replace one of several files, and return a description."""
    file, other = (files[k] for k in rng.choice(len(files), 2, replace=False))
    deed = rng.choice(["removed", "emptied", "replaced by another", "made a folder"])
    content = other.read_bytes() if deed == "replaced by another" else b""
    file.unlink()
    if deed == "made a folder":
        file.mkdir()
    elif deed != "removed":
        file.write_bytes(content)
    return f"{file.name} {deed}"


def _judge(format: Format, path: Path, whole: Values | None) -> tuple[str, bool]:
    """Return :data:`REFUSED`, :data:`ALIKE` or a description; and whether the independent reader succeeds."""
    theirs = _read(format.theirs, path)
    try:
        ours = format.ours(path)
    except DataError as error:
        proper = "\n" not in str(error) and str(path) in str(error)
        return REFUSED if proper else f"a refusal that is not one line with the path: {error}", theirs is not None
    except Exception as error:
        return f"{type(error).__name__}: {error}", theirs is not None
    expected = whole if theirs is None else theirs
    difference = "read, though no other reader reads it" if expected is None else _difference(ours, expected)
    return difference or ALIKE, theirs is not None


def _read(reader: Callable[[Path], Values], path: Path) -> Values | None:
    try:
        return reader(path)
    except Exception:
        return None


def _difference(ours: Values, theirs: Values) -> str:
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
