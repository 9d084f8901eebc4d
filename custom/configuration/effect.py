"""Determines which settings of a configuration can change its results.

A setting counts if it reaches a component as an argument, unless the component declares by :func:`without_effect` that
the argument does not change results (folders, number of workers, progress bars). Arguments of other libraries'
components always count. A top-level entry that reaches no component does not count.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from monai.bundle import ReferenceResolver

from .kinds import is_code, is_component, is_plain
from .references import join, shown, target_of

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

_ATTRIBUTE = "_without_effect"
_OF_OTHERS = {
    "MLFlowHandler": None,
    "DataLoader": frozenset({"num_workers"}),
    **dict.fromkeys(("SupervisedTrainer", "SupervisedEvaluator"), frozenset({"device"})),
}
"""The same for components of other libraries; None: all of their arguments."""
_NO_ARGUMENTS = {"_requires_", "_desc_", "_mode_"}
_DEVICE = re.compile(r"(cpu|cuda|mps)(:\d+)?")

Component = TypeVar("Component", bound=Callable)


def without_effect(*names: str) -> Callable[[Component], Component]:
    """Declare that arguments of a class or function do not change results; without names, that none does.

    Example::

        @without_effect("num_workers")
        class StreamLoader: ...
    """

    def declare(component: Component) -> Component:
        setattr(component, _ATTRIBUTE, frozenset(names) or None)
        return component

    return declare


def settings_with_effect(parser: "ConfigParser") -> dict[str, Any]:
    """Return the settings that can change results, by the id under which the user sets them.

    Expressions count by their text and by the plain values they refer to. Devices do not count, nor do top-level
    entries that evaluate to a plain value before a component uses it.
    """
    return {shown(id): value for id, value in _Settings(parser).of(parser.get(), "", within=False)}


class _Settings:
    def __init__(self, parser: "ConfigParser") -> None:
        self.parser = parser
        self.made = parser.ref_resolver.resolved_content

    def of(self, value: Any, id: str, *, within: bool) -> Iterator[tuple[str, Any]]:
        """Yield the settings of an entry; plain values count only ``within`` a component."""
        ignored: frozenset[str] | None = frozenset()
        if is_component(value):
            within, ignored = True, self._ignored(value)
            if ignored is None:
                return
            ignored |= _NO_ARGUMENTS
        if isinstance(value, Mapping | list) and value:
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                if key in ignored or (id == "" and (key.startswith("_") or _is_program(item))):
                    continue
                if not (_is_device(item) and within):
                    yield from self.of(item, join(id, key), within=within)
        elif is_code(value):
            yield from self._code(value, id, within=within)
        elif within:
            yield id, value

    def _ignored(self, component: Mapping[str, Any]) -> frozenset[str] | None:
        name = str(component["_target_"]).rpartition(".")[2]
        if name in _OF_OTHERS:
            return _OF_OTHERS[name]
        return getattr(target_of(component, self.parser), _ATTRIBUTE, frozenset())

    def _code(self, text: str, id: str, *, within: bool) -> Iterator[tuple[str, Any]]:
        made = self.made.get(id)
        if _is_device(made) or (not within and (id not in self.made or is_plain(made))):
            return
        values = dict(self._referred(text))
        yield from values.items()
        if text[1:] not in values:  # a plain reference is covered by its value
            yield id, shown(text)

    def _referred(self, text: str) -> Iterator[tuple[str, Any]]:
        """Yield the plain values that an expression refers to; components are covered by their own arguments."""
        for id in filter(None, ReferenceResolver.match_refs_pattern(text)):
            entry = self.parser.get(id)
            value = self.made.get(id, entry)
            if is_component(entry) or _is_device(value) or not is_plain(value):
                continue
            if is_code(value):  # not evaluated so far
                yield from self._referred(value)
            else:
                yield id, value


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and bool(_DEVICE.fullmatch(value)))


def _is_program(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.startswith("$") for v in value)
