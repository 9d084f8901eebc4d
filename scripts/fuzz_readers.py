"""Fuzz the readers of all formats, and compare them with independent readers."""

import sys
import tempfile
from pathlib import Path

from scripts.command_line import command_line
from scripts.fuzzing.campaign import MODULES, load, run


def fuzz_readers(
    *formats: str, mutations: int = 300, seed: int = 0, only: int | None = None, folder: str | None = None
) -> None:
    """Read whole files, then damaged copies: bits flipped, bytes removed or added, header fields changed.

    Each must be read exactly as by another library, or be refused with one line that names it. Prints a line for each
    format, and how to reproduce findings; exits with 1 if there are any.

    Example: python scripts/fuzz_readers.py nifti nrrd --mutations 300 --seed 1

    Args:
        formats: some of tiff, nifti, nrrd, metaimage, dicom, ome_zarr. By default all whose packages are installed.
        mutations: damaged files per format.
        seed: of the random numbers.
        only: number of one mutation, to reproduce it; 0 stands for the whole files.
        folder: where the files of findings are kept. By default a new temporary folder.
    """
    if unknown := [name for name in formats if name not in MODULES]:
        sys.exit(f"error: found the format {unknown[0]!r}, expected some of {', '.join(MODULES)}")
    root = Path(folder or tempfile.mkdtemp(prefix="fuzz-readers-"))
    found = 0
    for name in formats or MODULES:
        try:
            format = load(name)
        except ImportError as error:
            if formats:
                sys.exit(f"error: {name}: {error}; pip install -e '.[dev]' installs what the comparison needs")
            print(f"{name}: left out: {error}", flush=True)
            continue
        result = run(format, mutations, seed, root / name, only)
        print(result, flush=True)
        found += len(result.findings)
    if found:
        sys.exit(f"error: {found} findings")


if __name__ == "__main__":
    command_line(fuzz_readers, "fuzz_readers.py")
