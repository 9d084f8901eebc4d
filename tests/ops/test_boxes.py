import numpy as np
import pytest
from scipy import ndimage

from custom.ops.boxes import bounding_box


@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 5, 6)])
def test_it_is_the_box_scipy_finds(shape):
    generator = np.random.default_rng(0)
    for _ in range(20):
        mask = generator.random(shape) > 0.93
        expected = ndimage.find_objects(mask.astype(int))
        assert bounding_box(mask) == (expected[0] if expected else None)


def test_full_and_empty():
    assert bounding_box(np.ones((2, 3), bool)) == (slice(0, 2), slice(0, 3))
    assert bounding_box(np.zeros((2, 3), bool)) is None
