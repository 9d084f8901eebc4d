"""What may be meant for an annotation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from custom.configuration.kinds import fits, hint_of, words


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (1.0, int, False),
        (True, int, False),
        ("1", int, False),
        (1, float, True),
        (True, float, False),
        (0, bool, True),
        (2, bool, False),
        ("yes", bool, False),
        ("a", str, True),
        (2024, str, False),
        ("a", Sequence[str], False),
        (["a"], Sequence[str], True),
        ((1, 2), list[float], True),
        (["1"], Sequence[float], False),
        ([[1], [2, 3]], Sequence[Sequence[int]], True),
        ([1, "a"], tuple[int, str], True),
        ("a", str | Sequence[str], True),
        (3, float | Sequence[float] | None, True),
        (None, int, True),
        ("$1 / 2", int, True),
        ("@a", bool, True),
        ({"a": 1}, Mapping[str, float], True),
        ([1], Mapping[str, float], False),
        ({"_target_": "Compose"}, int, True),
        ("a", Literal["a", "b"], True),
        (1, Literal["a", "b"], False),
        ("a", Any, True),
        ("a", Path, True),
        ("a", Callable[[int], int], True),
        ("a", "torch.device", True),
        (Path("a"), int, True),
    ],
)
def test_fits(value, hint, expected):
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("default", "taken", "refused"),
    [
        (True, [False, 1, None], ["yes", 2, 0.5]),
        (3, [4, [1, 2], "$1"], ["4", 1.5, True]),
        (0.5, [1, 0.1, [1, 2]], ["1", True]),
        ("none", ["all", ["a"]], [1, True]),
        ([1, 2], [[3.5], (1, 2), 3], ["1,2", ["a"], True]),
        ([], [["a"], [1]], ["a"]),
        ({"a": 1}, [{"b": 2}], ["a", 1]),
    ],
)
def test_defaults_tell_the_kind(default, taken, refused):
    hint = hint_of(default, is_knob=True)
    assert [fits(value, hint) for value in taken] == [True] * len(taken)
    assert [fits(value, hint) for value in refused] == [False] * len(refused)


def test_defaults_that_tell_nothing():
    assert [hint_of(default, is_knob=True) for default in (None, "$1", "@a", "%a")] == [None] * 4
    assert fits(1.5, hint_of(1, is_knob=False))


def test_words():
    assert words(float | Sequence[float] | None) == "a number or a list"
    assert words(Mapping[str, int]) == "a dict"
