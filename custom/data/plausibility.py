"""Checks that a file's grey values and geometry are plausible for its modality.

A network predicts whatever it is given: a CT that is not in Hounsfield units, or a cube scaled to [0, 1], is read
without error and gives nonsense. Impossible values raise an error, doubtful ones give a warning.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import nibabel
import numpy as np
from monai.data.utils import to_affine_nd

from ..errors import DataError

AIR, SOFT, DENSE = -1100, -200, 300
"""Lower limits of air (lungs, gas, around the patient), soft tissue and bone, in HU. Values below air are padding:
scanners fill the outside of the field of view with -2000 to -3024."""

_SCALED = 10.0
"""A CT with only smaller absolute values is not in HU: scaled to [0, 1] or [-1, 1], HU / 1000, or a z-score."""
_FEW = 0.02
_CT = "CT in Hounsfield units (air -1000, water 0)"

# As fractions of the configured range of grey values.
_ROUNDING = 1e-4
_OVERSHOOT = 0.05
_DARK = 0.01

_AS_IT_IS = "--trust_values True takes the files as they are"

logger = logging.getLogger(__name__)


class Values(NamedTuple):
    """Statistics of a volume's values, sufficient for the checks.

    ``whole``: all values are integers. ``air``, ``soft``, ``dense``: fractions of voxels in these HU ranges.
    """

    lowest: float
    highest: float
    whole: bool
    air: float
    soft: float
    dense: float

    @classmethod
    def of(cls, array: np.ndarray) -> "Values":
        """Compute them for an array of any real type with at least one axis, plane by plane to save memory."""
        planes = array.transpose(np.argsort(array.strides, kind="stable")[::-1])  # in memory order
        below = np.zeros(3, np.int64)
        whole = True
        for plane in planes:
            below += [np.count_nonzero(plane < edge) for edge in (AIR, SOFT, DENSE)]
            whole = whole and (plane.dtype.kind != "f" or np.array_equal(plane, np.rint(plane)))
        shares = np.diff([*below, array.size]) / array.size
        return cls(float(array.min()), float(array.max()), whole, *shares.tolist())


def check_values(path: object, values: Values, *, grey_values: Sequence[float] | None = None) -> None:
    """Raise for a file whose values cannot be right; warn in one line if they are doubtful.

    Args:
        path: the file, for the message.
        values: of the whole file, as stored on disk.
        grey_values: the two ends of the intensity range that is scaled; None for CT, which is in HU.

    Raises:
        DataError: the values are scaled differently, or out of range.
    """
    wrong, doubtful = _assess_ct(values) if grey_values is None else _assess_grey(values, *sorted(grey_values))
    reason = doubtful if wrong is None else wrong
    if reason is None:
        return
    found = f"values from {values.lowest:g} to {values.highest:g}{reason}"
    if grey_values is None:
        expected = f"{_CT}; {_AS_IT_IS}"
    else:
        ends = " to ".join(f"{end:g}" for end in grey_values)
        expected = f"grey values from {ends}; --grey_values sets the range of the whole dataset, {_AS_IT_IS}"
    error = DataError.of(path, found, expected)
    if wrong is not None:
        raise error
    logger.warning("%s", error)


def warn_of_identity(path: object, affine: np.ndarray, shape: Sequence[int]) -> None:
    """Warn of a CT without geometry, whose orientation and spacing had to be assumed (LiTS volumes 28 to 47)."""
    if known_spacing(affine, shape) is None:
        axes = "".join(nibabel.aff2axcodes(affine))
        logger.warning(
            "%s: found the identity affine, expected the scanner's; taken as voxels of 1 mm in %s order,"
            " which may be wrong; %s",
            path,
            axes,
            _AS_IT_IS,
        )


def known_spacing(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Return the spacing in mm along each axis; None for an identity affine, also one with permuted or flipped axes.

    Files without geometry get such an affine (LiTS volumes 28 to 47), also the identity in ITK's LPS coordinates.
    """
    affine = to_affine_nd(3, np.asarray(affine, float))
    turned = np.abs(affine[:3, :3]).round(4)
    is_turn = np.isin(turned, (0, 1)).all() and (turned.sum(0) == 1).all() and (turned.sum(1) == 1).all()
    # Flipping an axis of n voxels moves the origin to its other end.
    origin, end = np.abs(affine[:3, 3]), turned @ (np.asarray(shape) - 1)
    if is_turn and (np.isclose(origin, 0, atol=1e-3) | np.isclose(origin, end, atol=1e-3)).all():
        return None
    return np.linalg.norm(affine[:3, :3], axis=0)


Judgement = tuple[str | None, str | None]
"""Why values are wrong and why they are doubtful, as a continuation of the message; None if they are not."""


def _assess_ct(values: Values) -> Judgement:
    if values.lowest < values.highest and max(-values.lowest, values.highest) <= _SCALED:
        return "", None
    # A part of the body may contain no air, and a slice outside of it nothing else; neither is certainly wrong.
    if values.air == 0:
        return None, f", none of them of air ({AIR} to {SOFT})"
    if values.soft < _FEW:
        return None, f", hardly any of them of soft tissue ({SOFT} to {DENSE})"
    if values.dense > values.soft / 2:  # bone is a tenth of a body
        return None, f", too many of them of bone (above {DENSE})"
    return None, None


def _assess_grey(values: Values, low: float, high: float) -> Judgement:
    outside, width = max(low - values.lowest, values.highest - high), high - low
    if outside > _OVERSHOOT * width:
        return "", None
    # An empty cube is dark, one at the scroll's edge may hold few grey values, but a scan's values are integers.
    if values.lowest < values.highest <= low + _DARK * width:
        return (None, ", which is almost black") if values.whole else ("", None)
    return None, "" if outside > _ROUNDING * width else None
