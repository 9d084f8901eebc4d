"""Grey values that are what the configuration takes them for."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import DataError


class CheckRanged(MapTransform):
    """Refuse an image with values outside a range: of 16 bits where 8 are expected, or scaled already.

    Without it, such an image is scaled by the wrong numbers and predicted, or learnt from, all the same.

    Args:
        keys: of the images.
        minimum, maximum: smallest and largest value that may occur.
        option: of the command line that gives the range, for the message.

    Raises:
        DataError: naming the case, what was found, and the option.
    """

    def __init__(self, keys: KeysCollection, minimum: float, maximum: float, option: str = "grey_values") -> None:
        super().__init__(keys)
        self.minimum, self.maximum, self.option = minimum, maximum, option

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            lowest, highest = float(data[key].min()), float(data[key].max())
            if lowest < self.minimum or highest > self.maximum:
                raise DataError.of(
                    data.get("id", key),
                    f"grey values from {lowest:g} to {highest:g}",
                    f"{self.minimum:g} to {self.maximum:g}; others with --{self.option} [{lowest:g},{highest:g}]",
                )
        return dict(data)
