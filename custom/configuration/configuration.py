"""The configuration that a component was made from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .check import check_options
from .effect import settings_with_effect, without_effect
from .kinds import is_plain
from .running import running_parser, running_workflow

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


@without_effect()
class Configuration:
    """The merged configuration of a run, with all overrides; refused if it holds options that nothing reads.

    A bundle makes it once, before anything else, and hands it to the components that have to know it:
    ``"configuration": {"_target_": "custom.configuration.Configuration"}``. MONAI gives components their arguments and
    nothing else, so this class looks for the parser among its callers; it is the only one that does.

    Args:
        parser: by default the one that is making this object; outside of a bundle the configuration is empty.

    Raises:
        DataError: an option that nothing reads, or a value of a wrong kind; see :func:`check_options`.
    """

    __slots__ = ("_parser",)  # hides it from MONAI's DataLoader, which looks into all attributes of a dataset

    def __init__(self, parser: "ConfigParser | None" = None) -> None:
        workflow = running_workflow() if parser is None else None
        self._parser = running_parser() if parser is None else parser
        if self._parser is not None:
            check_options(self._parser, workflow)

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, in a form that can be run again.

        Entries at the top (the knobs) whose ``$`` expression gives a plain value are replaced by that value. Only what
        has been used so far is known, so ask when training starts.
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
        """What can change the results, by id, as far as it has been used; see :mod:`custom.configuration.effect`."""
        return {} if self._parser is None else settings_with_effect(self._parser)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], shown: int = 5) -> str:
    """``threshold: 0.5, now 0.9``: the entries that are not the same, the first of them with both values."""
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    text = "; ".join(f"{key}: {_show(saved, key)}, now {_show(now, key)}" for key in keys[:shown])
    return text + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _show(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "absent"
    text = repr(settings[key])
    return text if len(text) <= 60 else f"{text[:57]}..."
