"""Check of freshly loaded images."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..configuration import without_effect
from ..data.plausibility import Values, check_values, warn_of_identity


@without_effect()
class CheckValuesd(MapTransform):
    """Checks that values and affine of a freshly loaded image are plausible; the image is not changed.

    The rules are those of the training cache, :mod:`custom.data.plausibility`. Place it directly after
    ``EnsureChannelFirstd``, before any transform that changes values or geometry.

    Example: ``CheckValuesd("image", grey_values=(0, 255))``

    Args:
        keys: images ``(1, ...)``.
        grey_values: the two ends of the intensity range that will be scaled; None for CT, which is in HU.
        trust_values: whether to skip the checks.

    Raises:
        DataError: the values cannot be right.
    """

    def __init__(
        self, keys: KeysCollection, *, grey_values: Sequence[float] | None = None, trust_values: bool = False
    ) -> None:
        super().__init__(keys)
        self.grey_values, self.trust_values = grey_values, trust_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in () if self.trust_values else self.key_iterator(data):
            image = data[key]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            path = meta.get("filename_or_obj") or data.get("id", key)
            check_values(path, Values.of(np.asarray(image[0])), grey_values=self.grey_values)
            if self.grey_values is None and isinstance(image, MetaTensor):
                warn_of_identity(path, image.affine.numpy(), image.shape[1:])
        return dict(data)
