"""Type checks of configuration values, by annotations and by defaults."""

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a dict",
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON or a command line is valid for a type hint.

    None, components, expressions, references and objects other than JSON's fit any hint; any value fits hints of types
    other than JSON's. A string is not a sequence of strings.
    """
    if value is None or is_code(value) or is_component(value):
        return True
    if not isinstance(value, bool | int | float | str | list | tuple | dict):
        return True
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is bool:
        return isinstance(value, bool) or (type(value) is int and value in (0, 1))
    if origin in (int, float):
        return isinstance(value, int if origin is int else int | float) and not isinstance(value, bool)
    if origin is str:
        return isinstance(value, str)
    if origin is types.NoneType:
        return False
    if origin is typing.Literal:
        return any(type(value) is type(each) for each in inner)
    if not isinstance(origin, type):
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, dict)
    if issubclass(origin, list | tuple) or (origin.__module__ == "collections.abc" and issubclass(origin, Iterable)):
        items = inner[:1] if len(set(inner) - {...}) == 1 else ()
        return isinstance(value, list | tuple) and all(fits(item, each) for item in value for each in items)
    return True


def words(hint: Any) -> str:
    """Describe a hint: ``a number or a list``."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(words(each) for each in inner if each is not types.NoneType)
    if origin in _WORDS:
        return _WORDS[origin]
    return "a dict" if isinstance(origin, type) and issubclass(origin, Mapping) else "a list"


def hint_of(default: Any, *, is_knob: bool) -> Any:
    """Return the hint that a default in a configuration implies; None if it implies nothing.

    Args:
        default: the default; a float such as 10.0 accepts any number.
        is_knob: whether it is a top-level entry, where an integer accepts only integers.
    """
    if default is None or is_code(default):
        return None
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):  # components may also accept one number per axis
        return (int if is_knob and isinstance(default, int) else float) | list | dict
    if isinstance(default, str):
        return str | list | dict
    if isinstance(default, list):
        numbers = default and all(type(item) in (int, float) for item in default)
        return list[float] | float if numbers else list | float
    return dict | list if isinstance(default, dict) else None


def hints(target: Any) -> dict[str, Any]:
    """Return the type hints of a component's arguments by name, as far as they can be resolved."""
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    except Exception:  # such as names imported for type checking only
        return {}


def is_code(value: Any) -> bool:
    """Whether the value is an expression or a reference, which MONAI resolves later."""
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def is_component(value: Any) -> bool:
    """Whether the value is a mapping with ``_target_``."""
    return isinstance(value, Mapping) and "_target_" in value


def is_plain(value: Any) -> bool:
    """Whether JSON can represent the value without loss."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
