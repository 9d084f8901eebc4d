"""Sizes that a network accepts."""

from collections.abc import Sequence

from ..errors import DataError


def check_sizes(sizes: Sequence[int], divisors: Sequence[int]) -> None:
    """Raise unless a patch or slice is a multiple of the divisors, axis by axis.

    Raises:
        DataError: it is not.
    """
    if any(size % divisor for size, divisor in zip(sizes, divisors, strict=True)):
        raise DataError.of("the network", f"patches or slices of {list(sizes)}", f"multiples of {list(divisors)}")
