"""Geometry in NIfTI headers, copied or derived.

A header holds it twice, as qform (a rotation and ``pixdim``) and as sform (any affine), each with a code that says
whether it is set and what it refers to. Programs differ in which one they read, so a mask must have both of its image
(https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h, methods 1 to 3).
"""

import os
from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np

from .plausibility import known_spacing

_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_SAME_PLACE = 0.01
"""Affines are considered equal if they move no corner of the volume by this many voxels."""
_MILLIMETRES = {1: 1000.0, 3: 0.001}
"""Of metre and micrometre, by the lowest three bits of xyzt_units; other codes are treated as millimetres."""


def nifti_affine(image: nibabel.Nifti1Pair) -> np.ndarray:
    """Return the affine (4, 4) from array index to RAS mm: sform, or else qform, converted from the header's unit."""
    unit = _MILLIMETRES.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, np.float64)


def header_for(affine: np.ndarray, shape: Sequence[int], like: str | os.PathLike | None = None) -> nibabel.Nifti1Header:
    """Return a NIfTI header with the geometry only.

    Args:
        affine: (4, 4), array index to RAS millimetres.
        shape: (I, J, K) of the array.
        like: a NIfTI file. If its shape and affine agree with ``shape`` and ``affine``, its qform, sform, their codes,
            pixdim, units and version (NIfTI-1 or NIfTI-2) are copied exactly. Otherwise both forms are derived from the
            affine: with the code "scanner", or "aligned" for an uninformative identity. A qform cannot represent shear;
            its code is 0 then.
    """
    if like is not None:
        source: Any = nibabel.load(like)
        header = (nibabel.Nifti2Header if isinstance(source.header, nibabel.Nifti2Header) else nibabel.Nifti1Header)()
        if (*source.shape, 1, 1)[:3] == tuple(shape) and _in_same_place(nifti_affine(source), affine, shape):
            for field in _FIELDS:
                header[field] = source.header[field]
            header["pixdim"][:4] = source.header["pixdim"][:4]  # the first one is qfac
            return header
    header = nibabel.Nifti1Header()
    code = "aligned" if known_spacing(affine, shape) is None else "scanner"
    header.set_sform(affine, code)
    header.set_qform(affine, code)
    if not _in_same_place(header.get_qform(), affine, shape):
        header.set_qform(affine, "unknown")
    header.set_xyzt_units("mm")
    return header


def largest_shift(grid: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest displacement of a corner of a volume by a map (4, 4) of indices, in voxels along one axis."""
    corners = np.stack(np.meshgrid(*[(0, length - 1) for length in shape], [1], indexing="ij")).reshape(4, -1)
    return float(np.abs((grid - np.eye(4)) @ corners).max())


def _in_same_place(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> bool:
    return largest_shift(np.linalg.inv(other) @ one, shape) < _SAME_PLACE
