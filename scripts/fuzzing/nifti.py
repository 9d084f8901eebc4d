"""NIfTI: written by nibabel and SimpleITK, read by a small decoder according to the standard.

Of nibabel, which the project uses, only the table of the header's fields is used for reading here.
"""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from nibabel import nifti1, nifti2
from scipy.spatial.transform import Rotation

from .campaign import Format, Values, voxels_and_affine

_SHAPE = (7, 6, 5)
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OBLIQUE = np.array([[-0.69, 0.1, 0.3, 30], [0.08, 0.79, -0.5, -20.5], [-0.1, 0.2, 2.4, 400], [0, 0, 0, 1]])

_QUATERNION, _OFFSET = ("quatern_b", "quatern_c", "quatern_d"), ("qoffset_x", "qoffset_y", "qoffset_z")
_SROWS = ("srow_x", "srow_y", "srow_z")
_FIELDS = (
    *2 * ("sizeof_hdr", "magic", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter"),
    *2 * ("xyzt_units", "qform_code", "sform_code"),  # as often as a part of the geometry
    *(*_QUATERNION, *_OFFSET, *_SROWS),
)
_WHOLE = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 128, 256, 348, 512, 540, 768, 1024, 1280, 1792, -1, -3, 32767]
_REAL = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 352.0, 1e-6, 1e30, np.nan, np.inf, 353.5, 540.0]
_MAGIC = [b"n+1\0", b"ni1\0", b"n+2\0\r\n\x1a\n", b"n+2\0", b"", b"n+9\0"]


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write volumes of 210 voxels: all types, both byte orders and versions, with and without gzip and an affine."""

    def image(kind: str, affine: Any = _OBLIQUE, of: Any = nibabel.Nifti1Image, order: str = "<") -> Any:
        return of(_voxels(rng, kind), affine, of.header_class(endianness=order), dtype=kind)

    images = {kind: image(kind) for kind in _TYPES.values()}
    images |= {"big": image("i2", order=">"), "second": image("f4", of=nibabel.Nifti2Image)}
    images["big_second"] = image("u2", of=nibabel.Nifti2Image, order=">")
    images |= {"scaled": image("i2"), "neither": image("i2", None), "turned": image("u1", None), "noted": image("i2")}
    images["frame"] = nibabel.Nifti1Image(_voxels(rng, "i2")[..., None], _OBLIQUE)
    images["plane"] = nibabel.Nifti1Image(_voxels(rng, "u1")[..., 0], _OBLIQUE)
    images["scaled"].header.set_slope_inter(0.5, -1024)
    images["turned"].set_qform(np.diag([-0.7, 0.8, -2.5, 1]), 1)
    images["noted"].header.extensions.append(nifti1.Nifti1Extension("comment", b"a remark"))
    for name in ("scaled", "frame", "big"):
        images[name].header.set_xyzt_units("mm")
    for name, made in images.items():
        for ending in (".nii", ".nii.gz"):
            nibabel.save(made, folder / f"{name}{ending}")
    for kind in ("i2", "f4"):
        made = SimpleITK.GetImageFromArray(_voxels(rng, kind))
        made.SetSpacing((0.7, 0.8, 2.5))
        made.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
        SimpleITK.WriteImage(made, str(folder / f"itk_{kind}.nii.gz"))
    return sorted(folder.iterdir())


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change the value of a header field, also in gzip files."""
    packed = content[:2] == b"\x1f\x8b"
    data = bytearray(gzip.decompress(content) if packed else content)
    name = str(rng.choice(_FIELDS))
    values = _header(data)[name].reshape(-1)
    at = int(rng.integers(values.size))
    choices = {"S": _MAGIC, "f": _REAL}.get(values.dtype.kind, _WHOLE)
    value = choices[rng.integers(len(choices))]
    values[at] = value if values.dtype.kind in "Sf" else np.array(value).astype(values.dtype)
    return gzip.compress(data) if packed else bytes(data), f"{name}[{at}] set to {value!r}"


def theirs(path: Path) -> Values:
    """Return voxels and affine according to the standard.

    Raises:
        Exception: of any type, for a damaged file or one without a volume.
    """
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    header = _header(data)[0]
    second = header["sizeof_hdr"] == 540
    unit = int(header["xyzt_units"]) & 7
    if bytes(header["magic"])[:3] != (b"n+2" if second else b"n+1") or unit > 3:
        raise ValueError("another magic or unit")
    number, offset = int(header["dim"][0]), int(header["vox_offset"])
    shape = header["dim"][1 : number + 1].tolist()
    if not 1 <= number <= 7 or min(shape) < 1 or offset != header["vox_offset"] or offset < (544 if second else 352):
        raise ValueError("no dimensions")
    shape = [*shape, 1, 1][: max(number, 3)]
    if max(shape[3:], default=1) > 1:
        raise ValueError("several frames")
    dtype = np.dtype(_TYPES[int(header["datatype"])]).newbyteorder(header["dim"].dtype.byteorder)
    stored = np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape[:3], order="F")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0:
        if not np.isfinite(inter):
            raise ValueError("no intercept")
        if (slope, inter) != (1, 0):
            stored = stored * np.float64(slope) + inter
    if not np.isfinite(stored).all():
        raise ValueError("not finite")
    millimetres = {1: 1000.0, 3: 0.001}.get(unit, 1.0)
    return stored, np.diag([millimetres] * 3 + [1]) @ _affine(header, np.array(shape[:3]))


def _affine(header: np.ndarray, shape: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    steps = header["pixdim"][1:4].astype(float)
    steps[max(header["dim"][0], 0) :] = 1
    turned = header["pixdim"][0] or 1
    if header["sform_code"] > 0:
        affine[:3] = [header[row] for row in _SROWS]
    elif steps.min() <= 0:
        raise ValueError("no steps")
    elif header["qform_code"] > 0:
        rotation = np.array([header[key] for key in _QUATERNION], float)
        if turned not in (1, -1) or rotation @ rotation > 1 + 1e-6:
            raise ValueError("no rotation")
        real = np.sqrt(max(1 - rotation @ rotation, 0))
        affine[:3, :3] = Rotation.from_quat([*rotation, real]).as_matrix() * steps * [1, 1, turned]
        affine[:3, 3] = [header[key] for key in _OFFSET]
    else:  # of Analyze, from the patient's right to the left; the place is not known, and taken as nibabel does
        affine[:3, :3] = np.diag(steps * [-1, 1, 1])
        affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _voxels(rng: np.random.Generator, kind: str) -> np.ndarray:
    return (rng.normal(0, 1000, _SHAPE) if kind[0] == "f" else rng.integers(0, 100, _SHAPE)).astype(kind)


def _header(data: bytes | bytearray) -> np.ndarray:
    """An array of one header, a view of the file."""
    for dtype, size in ((nifti1.header_dtype, 348), (nifti2.header_dtype, 540)):
        for order in "<>":
            header = np.frombuffer(data, dtype.newbyteorder(order), 1)
            if header["sizeof_hdr"] == size:
                return header
    raise ValueError("another size of the header")


FORMAT = Format("nifti", make, mutate, voxels_and_affine, theirs)
