"""The configuration that a component was made from, as plain values."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow


def running_parser() -> "ConfigParser | None":
    """The parser that is making the calling component; None outside of a bundle."""
    return _caller("ConfigParser")


def running_workflow() -> "ConfigWorkflow | None":
    """The workflow whose step makes the calling component; None where an application uses the parser by itself."""
    return _caller("ConfigWorkflow")


def _caller(name: str) -> Any:
    """The nearest caller that is an object of a class of ``monai.bundle``.

    MONAI hands components their arguments and nothing else, and what expressions see has no way to the parser, so it is
    looked for among the callers.
    """
    bundle = sys.modules.get("monai.bundle")  # not imported means not running
    frame = sys._getframe(2)
    while bundle is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, getattr(bundle, name)):
            return owner
        frame = frame.f_back
    return None


def plain_config(parser: "ConfigParser | None") -> dict[str, Any]:
    """The merged configuration with all overrides, as it can be run again.

    Its entries at the top (the knobs) are values where they are plain: what ``$`` expressions among them made is
    fixed. Only those that have been used so far are known, so this is best asked when training starts.
    """
    if parser is None:
        return {}
    made = parser.ref_resolver.resolved_content
    return {
        key: made[key] if key in made and is_plain(made[key]) else value
        for key, value in parser.get().items()
        if not key.startswith("_")
    }


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their id: ``{"network_def#init_filters": 40, ...}``."""
    if not isinstance(config, dict | list) or not config:
        return {prefix: config}
    items = config.items() if isinstance(config, dict) else enumerate(config)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves.update(flatten(value, f"{prefix}#{key}" if prefix else str(key)))
    return leaves


def is_plain(value: Any) -> bool:
    """Whether JSON holds the value without loss."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
