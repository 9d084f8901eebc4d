"""Common parts of MetaImage and NRRD: changes of a text header's lines, and reading by SimpleITK."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from .campaign import voxels_and_affine

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)

HEADERS = (".mha", ".mhd", ".nrrd")


def header_file(path: Path) -> Path:
    """Return the file with the header: the path itself, or the file in a folder that has one."""
    return path if path.is_file() else next(file for file in sorted(path.iterdir()) if file.suffix in HEADERS)


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels and affine as read by the project."""
    return voxels_and_affine(header_file(path))


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
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


def image(rng: np.random.Generator, kind: str, size: Sequence[int] = (9, 8, 7)) -> SimpleITK.Image:
    """Return a volume with a random, possibly oblique, geometry."""
    values = rng.normal(0, 1000, size[::-1]) if kind[0] == "f" else rng.integers(0, 100, size[::-1])
    made = SimpleITK.GetImageFromArray(values.astype(kind))
    made.SetSpacing([0.7, 0.8, 2.5][: len(size)])
    made.SetOrigin([-30.5, 12.25, 400.0][: len(size)])
    turn = np.linalg.qr(rng.normal(size=(len(size),) * 2))[0] if rng.random() < 0.5 else np.eye(len(size))[::-1]
    made.SetDirection(turn.ravel())
    return made


def change_line(path: Path, rng: np.random.Generator, values: Mapping[str, Sequence[str]], separator: str) -> str:
    """Change, add, delete or duplicate a header field, and return a description.

    Args:
        path: the file, or the folder of its header.
        rng: random numbers.
        values: replacement values by field; some invalid, some valid, some with another meaning.
        separator: between field and value.
    """
    file = header_file(path)
    lines = file.read_bytes().decode("latin-1").split("\n")
    fields = [line.split(separator.strip())[0].strip() for line in lines]
    places = [k for k, name in enumerate(fields[:40]) if name in values]
    kind = rng.choice(["change", "change", "change", "add", "delete", "repeat", "rename"])
    at = int(rng.choice(places)) if places else 1
    name = fields[at]
    if kind == "change" and name in values:
        value = str(rng.choice(values[name]))
        lines[at] = f"{name}{separator}{value}"
        what = f"{name} made {value!r}"
    elif kind == "add":
        name = str(rng.choice(sorted(values)))
        value = str(rng.choice(values[name]))
        lines.insert(1, f"{name}{separator}{value}")
        what = f"{name} of {value!r} added"
    elif kind == "delete":
        del lines[at]
        what = f"{name} deleted"
    elif kind == "repeat":
        lines.insert(at, lines[at])
        what = f"{name} repeated"
    else:
        lines[at] = lines[at].swapcase() if rng.random() < 0.5 else lines[at].replace(" ", "  ")
        what = f"{name} with other letters or spaces"
    file.write_bytes("\n".join(lines).encode("latin-1"))
    return what
