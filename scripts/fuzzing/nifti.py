"""NIfTI: written by nibabel and SimpleITK, read by a small decoder according to the standard.

nibabel, which the project uses, is not used for reading here.
"""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from scipy.spatial.transform import Rotation

from .campaign import Format, voxels_and_affine

_SHAPE = (7, 6, 5)
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OBLIQUE = np.array([[-0.69, 0.1, 0.3, 30], [0.08, 0.79, -0.5, -20.5], [-0.1, 0.2, 2.4, 400], [0, 0, 0, 1]])

_FIELDS = {  # offset, type and number of values in NIfTI-1 and in NIfTI-2
    "sizeof_hdr": ((0, "i", 1), (0, "i", 1)),
    "magic": ((344, "4s", 1), (4, "8s", 1)),
    "dim": ((40, "h", 8), (16, "q", 8)),
    "datatype": ((70, "h", 1), (12, "h", 1)),
    "bitpix": ((72, "h", 1), (14, "h", 1)),
    "pixdim": ((76, "f", 8), (104, "d", 8)),
    "vox_offset": ((108, "f", 1), (168, "q", 1)),
    "scl_slope": ((112, "f", 1), (176, "d", 1)),
    "scl_inter": ((116, "f", 1), (184, "d", 1)),
    "xyzt_units": ((123, "B", 1), (500, "i", 1)),
    "qform_code": ((252, "h", 1), (344, "i", 1)),
    "sform_code": ((254, "h", 1), (348, "i", 1)),
    "quatern": ((256, "f", 3), (352, "d", 3)),
    "qoffset": ((268, "f", 3), (376, "d", 3)),
    "srow": ((280, "f", 12), (400, "d", 12)),
}
_WHOLE = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 128, 256, 512, 768, 1024, 1280, 1792, -1, -3, 32767]
_REAL = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 352.0, 1e-6, 1e30, np.nan, np.inf, 353.5, 540.0]


def make(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write volumes of 210 voxels: all types, both byte orders and versions, with and without gzip and an affine."""
    images = {}
    for kind in _TYPES.values():
        images[kind] = nibabel.Nifti1Image(_voxels(rng, kind), _OBLIQUE, dtype=kind)
    big = nibabel.Nifti1Image(_voxels(rng, "i2"), _OBLIQUE, nibabel.Nifti1Header(endianness=">"))
    second = nibabel.Nifti2Image(_voxels(rng, "f4"), _OBLIQUE)
    big_second = nibabel.Nifti2Image(_voxels(rng, "u2"), _OBLIQUE, nibabel.Nifti2Header(endianness=">"))
    scaled = nibabel.Nifti1Image(_voxels(rng, "i2"), _OBLIQUE)
    scaled.header.set_slope_inter(0.5, -1024)
    neither = nibabel.Nifti1Image(_voxels(rng, "i2"), None)
    frame = nibabel.Nifti1Image(_voxels(rng, "i2")[..., None], _OBLIQUE)
    turned = nibabel.Nifti1Image(_voxels(rng, "u1"), None)
    turned.set_qform(np.diag([-1.0, 1, -1, 1]) @ np.diag([0.7, 0.8, 2.5, 1]), 1)
    for image, unit in ((scaled, "mm"), (frame, "mm"), (big, "mm")):
        image.header.set_xyzt_units(unit)
    noted = nibabel.Nifti1Image(_voxels(rng, "i2"), _OBLIQUE)
    noted.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a remark"))
    plane = nibabel.Nifti1Image(_voxels(rng, "u1")[..., 0], _OBLIQUE)
    images |= {"big": big, "second": second, "big_second": big_second, "scaled": scaled, "neither": neither}
    images |= {"frame": frame, "turned": turned, "noted": noted, "plane": plane}
    paths = []
    for name, image in images.items():
        for ending in (".nii", ".nii.gz"):
            paths.append(folder / f"{name}{ending}")
            nibabel.save(image, paths[-1])
    for kind in ("i2", "f4"):
        paths.append(folder / f"itk_{kind}.nii.gz")
        image = SimpleITK.GetImageFromArray(_voxels(rng, kind))
        image.SetSpacing((0.7, 0.8, 2.5))
        image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
        SimpleITK.WriteImage(image, str(paths[-1]))
    return paths


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Change the value of a header field, also in gzip files."""
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    order, second = _version(data)
    name = str(rng.choice(list(_FIELDS)))
    at, kind, count = _FIELDS[name][second]
    index = int(rng.integers(count))
    if name == "magic":
        value = [b"n+1\0", b"ni1\0", b"n+2\0\r\n\x1a\n", b"n+2\0", b"", b"n+9\0"][rng.integers(6)]
    elif kind in "fd":
        value = float(rng.choice(_REAL))
    else:
        value = int(rng.choice([348, 540, *_WHOLE] if name == "sizeof_hdr" else _WHOLE))
        value = value & 255 if kind == "B" else value
    size = struct.calcsize(kind)
    struct.pack_into(order + kind, data, at + index * size, value)
    path.write_bytes(gzip.compress(data) if packed else data)
    return f"{name}[{index}] set to {value}"


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels and affine according to the standard.

    Raises:
        Exception: of any type, for a damaged file or one without a volume.
    """
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    order, second = _version(data)
    fields = {}
    for name, versions in _FIELDS.items():
        at, kind, count = versions[second]
        values = struct.unpack_from(f"{order}{'' if kind[-1] == 's' else count}{kind}", data, at)
        fields[name] = values if count > 1 else values[0]
    if fields["magic"][:4] != (b"n+2\0" if second else b"n+1\0") or fields["xyzt_units"] & 7 > 3:
        raise ValueError("another magic or unit")
    number, offset = fields["dim"][0], int(fields["vox_offset"])
    shape = fields["dim"][1 : number + 1]
    if not 1 <= number <= 7 or min(shape) < 1 or offset != fields["vox_offset"] or offset < (544 if second else 352):
        raise ValueError("no dimensions")
    shape = [*shape, 1, 1][: max(number, 3)]
    if max(shape[3:], default=1) > 1:
        raise ValueError("several frames")
    dtype = np.dtype(order + _TYPES[fields["datatype"]])
    stored = np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape[:3], order="F")
    slope, inter = fields["scl_slope"], fields["scl_inter"]
    if np.isfinite(slope) and slope != 0:
        if not np.isfinite(inter):
            raise ValueError("no intercept")
        if (slope, inter) != (1, 0):
            stored = stored * np.float64(slope) + inter
    if not np.isfinite(stored).all():
        raise ValueError("not finite")
    millimetres = {1: 1000.0, 3: 0.001}.get(fields["xyzt_units"] & 7, 1.0)
    return stored, np.diag([millimetres] * 3 + [1]) @ _affine(fields)


def _affine(fields: dict) -> np.ndarray:
    affine = np.eye(4)
    steps = np.array(fields["pixdim"][1:4])
    steps[max(fields["dim"][0], 0) :] = 1
    if fields["sform_code"] > 0:
        affine[:3] = np.reshape(fields["srow"], (3, 4))
    elif fields["qform_code"] > 0:
        if steps.min() <= 0 or fields["pixdim"][0] not in (1, 0, -1):
            raise ValueError("no steps")
        b, c, d = fields["quatern"]
        if b * b + c * c + d * d > 1 + 1e-6:
            raise ValueError("no rotation")
        a = np.sqrt(max(1 - (b * b + c * c + d * d), 0))
        turn = Rotation.from_quat([b, c, d, a]).as_matrix()
        affine[:3, :3] = turn * steps * [1, 1, fields["pixdim"][0] or 1]
        affine[:3, 3] = fields["qoffset"]
    elif steps.min() <= 0:
        raise ValueError("no steps")
    else:  # of Analyze, from the patient's right to the left; the place is not known, and taken as nibabel does
        shape = np.array([*fields["dim"][1 : fields["dim"][0] + 1], 1, 1][:3])
        affine[:3, :3] = np.diag(steps * [-1, 1, 1])
        affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _voxels(rng: np.random.Generator, kind: str) -> np.ndarray:
    return (rng.normal(0, 1000, _SHAPE) if kind[0] == "f" else rng.integers(0, 100, _SHAPE)).astype(kind)


def _version(data: bytes) -> tuple[str, bool]:
    """Byte order, and whether it is NIfTI-2."""
    found = {struct.pack(order + "i", size): (order, size == 540) for order in "<>" for size in (348, 540)}
    return found[bytes(data[:4])]


FORMAT = Format("nifti", make, mutate, voxels_and_affine, theirs)
