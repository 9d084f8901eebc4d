import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from custom.ops.run_length import decode, encode

# rows of a mask and its code, counted down the columns from 1
TABLE = {
    "empty": (["000", "000"], "1 0"),
    "full": (["111", "111"], "1 6"),
    "first pixel": (["100", "000"], "1 1"),
    "last pixel": (["000", "001"], "6 1"),
    "a column": (["010", "010"], "3 2"),
    "a row": (["000", "111"], "2 1 4 1 6 1"),
    "over the end of a column": (["011", "110"], "2 4"),
}


def mask(rows):
    return np.array([list(map(int, row)) for row in rows], np.uint8)


@pytest.mark.parametrize("rows, code", TABLE.values(), ids=TABLE)
def test_by_hand(rows, code):
    assert encode(mask(rows)) == code
    assert np.array_equal(decode(code, (2, 3)), mask(rows))


def one_by_one(code, shape):
    """The competition's rule, pixel by pixel."""
    numbers = [int(word) for word in code.split()]
    output = np.zeros(shape, bool)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            output[pixel % shape[0], pixel // shape[0]] = True
    return output


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_any_mask_comes_back(array):
    code = encode(array)
    assert np.array_equal(decode(code, array.shape), array)
    assert np.array_equal(one_by_one(code, array.shape), array)


def test_any_layout_and_dtype():
    array = mask(["0110", "1100", "0001"])
    for same in (array.astype(float), np.asfortranarray(array), np.flip(np.flip(array, 0).copy(), 0), array * 255):
        assert encode(same) == encode(array)


@pytest.mark.parametrize(
    "code, message",
    [
        ("", "pairs"),
        ("1 2 3", "pairs"),
        ("1 0 4 1", "ascend"),
        ("0 2", "ascend"),
        ("5 3", "ascend"),
        ("1 3 3 1", "ascend"),
        ("4 1 1 1", "ascend"),
        ("3 -1", "ascend"),
        ("1 x", "invalid literal"),
        ("1.0 2", "invalid literal"),
    ],
)
def test_wrong_codes_are_refused(code, message):
    with pytest.raises(ValueError, match=message):
        decode(code, (2, 3))
