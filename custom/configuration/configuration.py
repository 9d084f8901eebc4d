"""Access of components to the run's configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .check import check_options, quoted
from .effect import settings_with_effect, without_effect
from .kinds import is_plain
from .running import running

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


@without_effect()
class Configuration:
    """The merged configuration of a run, with all overrides; raises if it contains unused options.

    A bundle creates it first, and passes it to the components that need it. Without ``parser``, it finds MONAI's
    running parser in the call stack, since MONAI passes components nothing but their arguments.

    Example: ``"configuration": {"_target_": "custom.configuration.Configuration"}``

    Args:
        parser: the parser; by default the one that instantiates this object. Outside of a bundle the configuration is
            empty.

    Raises:
        DataError: an unused option, or a value of a wrong type; see :func:`check_options`.
    """

    __slots__ = ("_parser",)  # hidden from MONAI's DataLoader, which traverses a dataset's attributes

    def __init__(self, parser: "ConfigParser | None" = None) -> None:
        workflow = running("ConfigWorkflow") if parser is None else None
        self._parser = running("ConfigParser") if parser is None else parser
        if self._parser is not None:
            check_options(self._parser, workflow)

    def plain(self) -> dict[str, Any]:
        """Return the whole configuration as plain values that can be run again.

        Top-level entries whose ``$`` expression evaluates to a plain value are replaced by that value. Only entries
        used so far have been evaluated, so call it when training starts.
        """
        if self._parser is None:
            return {}
        made = self._parser.ref_resolver.resolved_content
        return {
            key: made[key] if key in made and is_plain(made[key]) else value
            for key, value in self._parser.get().items()
            if not key.startswith("_")
        }

    def effective(self) -> dict[str, Any]:
        """Return the settings used so far that can change results, by id; see :mod:`custom.configuration.effect`."""
        return {} if self._parser is None else settings_with_effect(self._parser)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], shown: int = 5) -> str:
    """Describe the entries that differ, such as ``threshold: 0.5, now 0.9``, at most ``shown`` of them with values."""
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    text = "; ".join(f"{key}: {_show(saved, key)}, now {_show(now, key)}" for key in keys[:shown])
    return text + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _show(settings: Mapping[str, Any], key: str) -> str:
    return quoted(settings[key]) if key in settings else "absent"
