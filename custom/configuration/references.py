"""References between the entries of a configuration."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from .kinds import is_code

SEPARATOR = ReferenceResolver.sep


class References:
    """The references (``@id`` and ``%id``, also within ``$`` expressions) of a configuration.

    Args:
        config: as in a file, or as parsed by MONAI, which replaces macros ``%id`` by copies of entries.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._places: dict[str, set[str]] = {}
        for place, text in walk(config):
            for target in _targets(place, text) if isinstance(text, str) else ():
                self._places.setdefault(target, set()).add(place)

    @property
    def targets(self) -> list[str]:
        return list(self._places)

    def names(self, id: str) -> bool:
        """Whether another entry refers to exactly this one."""
        return any(not is_within(place, id) for place in self._places.get(id, ()))

    def reach(self, id: str) -> bool:
        """Whether another entry refers to this one or to a part of it."""
        return any(
            not is_within(place, id)
            for target, places in self._places.items()
            if is_within(target, id)
            for place in places
        )

    def is_copied(self, key: str) -> bool:
        """Whether a macro has copied the top-level entry ``key``, or a part of it, to another place.

        Copies are recognised by the identity of strings and floats, which ``copy.deepcopy`` shares with the original.
        Integers, booleans and strings of one character cannot be distinguished.
        """
        others = {id(leaf) for other, value in self.config.items() if other != key for leaf in _leaves(value)}
        return any(id(leaf) in others for leaf in _leaves(self.config[key]))


def _targets(place: str, text: str) -> Iterator[str]:
    if "@" not in text and not text.startswith("%"):
        return
    text = ConfigParser.resolve_relative_ids(place, text)
    yield from filter(None, ReferenceResolver.match_refs_pattern(text))
    if text.startswith("%"):
        path, target = ConfigParser.split_path_id(text[1:])
        if not path:
            yield target


def _leaves(value: Any) -> Iterator[Any]:
    for _, item in walk(value):
        if isinstance(item, float) or (isinstance(item, str) and len(item) > 1):
            yield item


def walk(value: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    """Yield an entry and all that it contains, by id."""
    yield id, value
    if isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from walk(item, join(id, key))


def is_within(id: str, whole: str) -> bool:
    """Whether an entry is another one or a part of it."""
    return id == whole or id.startswith(whole + SEPARATOR)


def join(*parts: object) -> str:
    """Join parts to an id: ``join("train", "trainer", 0)`` is ``train::trainer::0``."""
    return SEPARATOR.join(str(part) for part in parts if part != "")


def shown(id: str) -> str:
    """Return an id as users write it."""
    return id.replace(SEPARATOR, "#")


def target_of(component: Mapping[str, Any], parser: ConfigParser) -> Any:
    """Return the class or function of a component, None if it cannot be located or is an expression."""
    import pydoc

    from monai.bundle.config_item import ConfigComponent

    target = component["_target_"]
    if not isinstance(target, str) or is_code(target):
        return target if callable(target) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on ambiguous names, of which MONAI warns on instantiation
        name = ConfigComponent(dict(component), locator=parser.locator).resolve_module_name()
        try:
            return pydoc.locate(name)
        except pydoc.ErrorDuringImport:
            return None
