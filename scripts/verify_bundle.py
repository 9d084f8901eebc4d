"""Check a bundle (folder or zip) like the model zoo does, and run it."""

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from scripts.command_line import command_line

from custom.errors import DataError


def verify_bundle(path: str, quick: bool = False, offline: bool = False) -> bool:
    """Print a line for each check, ok or failed. Exits with 1 if one failed.

    The first checks run no code of the bundle: paths in the zip, checksums, metadata, configurations, weights. Only if
    all of these pass, the bundle's code is run: it predicts, trains and evaluates on phantoms, from an empty folder
    without PYTHONPATH, and its network is checked against the metadata and exported. A zip is unpacked into a temporary
    folder, and nothing is written elsewhere.

    The code of a bundle can do anything that you can do. Look at its scripts/ first if you do not trust its source.

    Example: python scripts/verify_bundle.py dist/liver_tumor_2d_v0.1.0.zip

    Args:
        path: the bundle's folder or zip; compared with SHA256SUMS in the same folder.
        quick: run no code of the bundle.
        offline: do not download the official schema of the metadata.
    """
    passed = []
    with tempfile.TemporaryDirectory(prefix="verify_bundle_") as temporary:
        for name, ok, found in _results(Path(str(path)), Path(temporary), quick, offline):
            print(f"{'ok    ' if ok else 'failed'}  {name}: {found}", flush=True)
            passed.append(ok)
    failed = passed.count(False)
    print(f"{path}: {f'{failed} of {len(passed)} checks failed' if failed else f'all {len(passed)} checks passed'}")
    return not failed


def _results(path: Path, temporary: Path, quick: bool, offline: bool) -> Iterator[tuple[str, bool, str]]:
    from scripts.bundles.checks import CHECKS, Source  # slow to import, not needed for --help

    try:
        source = Source(*_opened(path, temporary), offline)
    except DataError as error:
        yield "reading", False, str(error)
        return
    yield "reading", True, f"{'zip' if path.is_file() else 'folder'} of {source.folder.name}"
    passed = True
    for name, check in CHECKS.items():
        try:
            yield name, True, check(source)
        except Exception as error:  # an unsuitable file can raise anything
            passed = False
            kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
            yield name, False, kind + " ".join(str(error).split())
    if quick:
        return
    if not passed:
        yield "running it", False, "not run, because of what failed above"
        return

    from scripts.bundles.trial import try_out

    foreign = temporary / "foreign"
    foreign.mkdir()
    yield from try_out(source, foreign)


def _opened(path: Path, temporary: Path) -> tuple[Path, dict[str, str]]:
    """The bundle's folder, and the checksums of its files."""
    from scripts.bundles.archive import SUMS, read_sums
    from scripts.bundles.unpacking import unpack

    from custom.system.identity import sha256

    sums = read_sums(path.absolute().parent / SUMS)
    if path.is_dir():
        return path, _below(path, sums)
    if zipfile.is_zipfile(path):
        if path.name in sums and sha256(path) != sums[path.name]:
            raise DataError.of(path, "another content", f"the checksum in {path.absolute().parent / SUMS}")
        folder = unpack(path, temporary / "bundle")
        # the zip's checksum suffices; those of files may be of a later version
        return folder, {} if path.name in sums else _below(folder, sums)
    raise DataError.of(path, "no folder and no zip", "an exported bundle")


def _below(folder: Path, sums: dict[str, str]) -> dict[str, str]:
    """The checksums of a folder's files, by relative path."""
    prefix = f"{folder.absolute().name}/"
    return {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}


def main() -> None:
    """Run the command line."""
    if command_line(verify_bundle, "verify_bundle.py") is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
