"""Files that are what the configuration takes them for, judged as they were read."""

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
    """Judge the values and the affine of an image that was just loaded; its voxels are left as they are.

    The rules are those of the cache that trainings read from, :mod:`custom.data.plausibility`. Comes right after
    ``EnsureChannelFirstd``: what has been turned or scaled, let alone augmented, is no more what the file holds.

    Args:
        keys: of the images, ``(1, ...)``.
        grey_values: the two ends of the range that will be scaled; None for CT, which is in HU.
        trust_values: judge nothing.

    Raises:
        DataError: the values are not what they are taken for.
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
