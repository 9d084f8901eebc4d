"""Defaults and known options declared in a bundle's configuration files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .kinds import is_component
from .references import SEPARATOR, References, join

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

_LARGEST = 2**20
"""Largest size of a configuration file in bytes."""
_MISSING = object()


class Declared:
    """The JSON files in a bundle's configuration folders."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))

    @cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        paths = [path for folder in self.folders if folder.is_dir() for path in sorted(folder.glob("*.json"))]
        contents = {path.name: _read(path) for path in paths if path.name != "metadata.json"}
        return {name: _normalised(content) for name, content in contents.items() if isinstance(content, dict)}

    def readers(self, id: str) -> list[str]:
        """Return the files that contain the entry together with something that reads it."""
        return [
            name
            for name, references in self._references.items()
            if _find(self.files[name], id) is not _MISSING and references.reach(id)
        ]

    def is_part(self, name: str, config: "ConfigParser") -> bool:
        """Whether the configuration contains the top-level ids of all entries of a file."""
        return all(key.split(SEPARATOR)[0] in config for key in self.files[name])

    def gives(self, id: str, config: "ConfigParser") -> bool:
        """Whether an entry has its value from a file that is part of the configuration."""
        value = _normalised(config[id])
        return any(_find(content, id) == value and self.is_part(name, config) for name, content in self.files.items())

    def defaults(self, id: str) -> list[Any]:
        """Return the values of an entry in the complete configurations; override files may be the user's."""
        found = [_find(content, id) for content in self.files.values() if "bundle_root" in content]
        return [value for value in found if value is not _MISSING]

    @cached_property
    def known(self) -> set[str]:
        """Top-level entries that are read within their file."""
        return {
            key for name, references in self._references.items() for key in self.files[name] if references.reach(key)
        }

    @cached_property
    def _references(self) -> dict[str, References]:
        return {name: References(content) for name, content in self.files.items()}


def values(config: Mapping[str, Any], declared: Declared, place: str = "") -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield entries by id, with value and defaults; within a component only if the ``_target_`` is the default's."""
    for key, value in config.items():
        id = join(place, key)
        defaults = declared.defaults(id)
        if isinstance(value, Mapping) and all(_alike(value, default) for default in defaults):
            yield from values(value, declared, id)
        elif defaults and key != "_target_":
            yield id, value, defaults


def _alike(value: Mapping[str, Any], default: Any) -> bool:
    return isinstance(default, Mapping) and value.get("_target_") == default.get("_target_")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _LARGEST else None
    except (OSError, ValueError):
        return None


def _normalised(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key).replace("#", SEPARATOR): _normalised(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalised(item) for item in value]
    return value.replace("#", SEPARATOR) if isinstance(value, str) else value


def _find(content: Mapping[str, Any], id: str) -> Any:
    """Find an entry of a file, also if it is written as one long id."""
    parts = id.split(SEPARATOR)
    for length in range(len(parts), 0, -1):
        value = content.get(SEPARATOR.join(parts[:length]), _MISSING)
        if length == len(parts) and value is not _MISSING:
            return value
        if isinstance(value, Mapping):
            return _find(value, SEPARATOR.join(parts[length:]))
    return _MISSING


def settings(value: Any) -> bool:
    """Whether the value is a mapping of plain values."""
    plain = isinstance(value, Mapping) and not is_component(value)
    return plain and not any(isinstance(item, Mapping) or is_component(item) for item in value.values())
