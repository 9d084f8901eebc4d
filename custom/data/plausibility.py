"""Whether a file is what the configuration takes it for: its grey values and its geometry, judged by the whole file.

A network predicts whatever it is given: a CT that is not in Hounsfield units, or a cube scaled to [0, 1], reads well
and gives nonsense. What cannot be right is refused, what may be wrong is said in one line.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import nibabel
import numpy as np
from monai.data.utils import to_affine_nd

from ..errors import DataError

AIR, SOFT, DENSE = -1100, -200, 300
"""Where air (lungs, gas, what is around the patient), soft tissue and bone begin, in HU. What is below air is padding:
scanners fill what is outside of the field of view with -2000 to -3024."""

_SCALED = 10.0
"""CT within this of 0 is in no unit that tells fat from liver: scaled to [0, 1] or [-1, 1], HU / 1000, a z-score."""
_FEW = 0.02
_CT = "CT in Hounsfield units (air -1000, water 0)"

# As shares of the configured range of grey values.
_ROUNDING = 1e-4
_OVERSHOOT = 0.05
_DARK = 0.01

_AS_IT_IS = "--trust_values True takes the files as they are"

logger = logging.getLogger(__name__)


class Values(NamedTuple):
    """What is kept of a volume's values, enough to judge them without reading it again.

    ``whole``: there are no fractions. ``air``, ``soft``, ``dense``: shares of the voxels in these ranges, if it is CT.
    """

    lowest: float
    highest: float
    whole: bool
    air: float
    soft: float
    dense: float

    @classmethod
    def of(cls, array: np.ndarray) -> "Values":
        """Of an array of any real type and at least one axis, plane by plane, so that little memory is taken."""
        planes = array.transpose(np.argsort(array.strides, kind="stable")[::-1])  # as they lie in memory
        below = np.zeros(3, np.int64)
        whole = True
        for plane in planes:
            below += [np.count_nonzero(plane < edge) for edge in (AIR, SOFT, DENSE)]
            whole = whole and (plane.dtype.kind != "f" or np.array_equal(plane, np.rint(plane)))
        shares = np.diff([*below, array.size]) / array.size
        return cls(float(array.min()), float(array.max()), whole, *shares.tolist())


def check_values(path: object, values: Values, *, grey_values: Sequence[float] | None = None) -> None:
    """Refuse a file whose values cannot be what they are taken for; warn in one line where they may not be.

    Args:
        path: of the file, for the message.
        values: of the whole file, as it is on disk.
        grey_values: the two ends of the range that is scaled; None for CT, which is in HU.

    Raises:
        DataError: the values are scaled otherwise, or outside of the range.
    """
    wrong, doubtful = _judged_ct(values) if grey_values is None else _judged_grey(values, *sorted(grey_values))
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
    """Warn of a CT without geometry, whose orientation and millimetres had to be assumed (LiTS volumes 28 to 47).

    Args:
        path: of the file, for the message.
        affine: (4, 4), of the file.
        shape: of its array.
    """
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
    """Millimetres along each axis; ``None`` for an affine that is the identity, be it with axes turned since.

    Such an affine says nothing: it is what a file without geometry gets (LiTS volumes 28 to 47). The identity of ITK's
    LPS coordinates counts as well.
    """
    affine = to_affine_nd(3, np.asarray(affine, float))
    turned = np.abs(affine[:3, :3]).round(4)
    is_turn = np.isin(turned, (0, 1)).all() and (turned.sum(0) == 1).all() and (turned.sum(1) == 1).all()
    # Turning an axis of n voxels round moves the origin to its other end.
    origin, end = np.abs(affine[:3, 3]), turned @ (np.asarray(shape) - 1)
    if is_turn and (np.isclose(origin, 0, atol=1e-3) | np.isclose(origin, end, atol=1e-3)).all():
        return None
    return np.linalg.norm(affine[:3, :3], axis=0)


Judgement = tuple[str | None, str | None]
"""Why values are wrong, or else why they are doubtful: what is said after their two ends; None where they are not."""


def _judged_ct(values: Values) -> Judgement:
    if values.lowest < values.highest and max(-values.lowest, values.highest) <= _SCALED:
        return "", None
    # A part of the body may hold no air, and a plane beside it nothing else: neither is sure to be wrong.
    if values.air == 0:
        return None, f", none of them of air ({AIR} to {SOFT})"
    if values.soft < _FEW:
        return None, f", hardly any of them of soft tissue ({SOFT} to {DENSE})"
    if values.dense > values.soft / 2:  # bone is a tenth of a body
        return None, f", too many of them of bone (above {DENSE})"
    return None, None


def _judged_grey(values: Values, low: float, high: float) -> Judgement:
    outside, width = max(low - values.lowest, values.highest - high), high - low
    if outside > _OVERSHOOT * width:
        return "", None
    # An empty cube is dark, and one beside the scroll may hold a few grey values; none of a scan's are fractions of 1.
    if values.lowest < values.highest <= low + _DARK * width:
        return (None, ", which is almost black") if values.whole else ("", None)
    return None, "" if outside > _ROUNDING * width else None
