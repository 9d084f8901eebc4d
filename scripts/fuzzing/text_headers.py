"""Common parts of MetaImage and NRRD: changes of a text header's lines, writing and reading by SimpleITK."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from .campaign import Values, voxels_and_affine

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)

HEADERS = (".mha", ".mhd", ".nrrd")


def header_file(path: Path) -> Path:
    """Return the file with the header: the path itself, or the file in a folder that has one."""
    return next((file for file in sorted(path.glob("*")) if file.suffix in HEADERS), path)


def ours(path: Path) -> Values:
    """Return voxels and affine as read by the project."""
    return voxels_and_affine(header_file(path))


def theirs(path: Path) -> Values:
    """Return voxels (I, J, K) and the affine to RAS millimetres as read by SimpleITK."""
    image = SimpleITK.ReadImage(str(header_file(path)))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError("several values per voxel")
    size, used = image.GetSize(), min(image.GetDimension(), 3)
    array = SimpleITK.GetArrayFromImage(image).reshape(size[::-1]).T
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (len(size), len(size)))[:used, :used]
    affine[:used, :used] = direction * image.GetSpacing()[:used]
    affine[:used, 3] = image.GetOrigin()[:used]
    return array.reshape((*size, 1)[:3]), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def make(folder: Path, rng: np.random.Generator, ending: str) -> None:
    """Write volumes of all types, raw and compressed, and a plane."""
    for kind in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8"):
        for compressed in (False, True):
            name = f"{kind}{'_compressed' if compressed else ''}{ending}"
            SimpleITK.WriteImage(image(rng, kind), str(folder / name), useCompression=compressed)
    SimpleITK.WriteImage(image(rng, "i2", (9, 8)), str(folder / f"plane{ending}"))


def image(rng: np.random.Generator, kind: str, size: Sequence[int] = (9, 8, 7)) -> SimpleITK.Image:
    """Return a volume with a random, possibly oblique, geometry."""
    values = rng.normal(0, 1000, size[::-1]) if kind[0] == "f" else rng.integers(0, 100, size[::-1])
    made = SimpleITK.GetImageFromArray(values.astype(kind))
    made.SetSpacing([0.7, 0.8, 2.5][: len(size)])
    made.SetOrigin([-30.5, 12.25, 400.0][: len(size)])
    turn = np.linalg.qr(rng.normal(size=(len(size),) * 2))[0] if rng.random() < 0.5 else np.eye(len(size))[::-1]
    made.SetDirection(turn.ravel())
    return made


def change_line(
    content: bytes, rng: np.random.Generator, values: Mapping[str, Sequence[str]], separator: str
) -> tuple[bytes, str]:
    """Change, add, delete or duplicate a header field, and return a description.

    Args:
        content: of the file with the header.
        rng: random numbers.
        values: replacement values by field; some invalid, some valid, some with another meaning.
        separator: between field and value.
    """
    lines = content.decode("latin-1").split("\n")
    fields = [line.split(separator.strip())[0].strip() for line in lines]
    places = [k for k, name in enumerate(fields[:40]) if name in values]
    at = int(rng.choice(places))
    other = str(rng.choice(sorted(values)))
    changed, added = (f"{name}{separator}{rng.choice(values[name])}" for name in (fields[at], other))
    kinds = {
        "changed": [changed],
        "before another": [added, lines[at]],
        "deleted": [],
        "repeated": [lines[at], lines[at]],
        "with other letters": [lines[at].swapcase()],
        "with more spaces": [lines[at].replace(" ", "  ")],
    }
    kind = str(rng.choice(list(kinds), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1]))
    before, lines[at : at + 1] = lines[at], kinds[kind]
    return "\n".join(lines).encode("latin-1"), f"{before!r} {kind}: {kinds[kind]}"
