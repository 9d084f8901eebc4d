"""Who is making the calling component: the one place that looks into the call stack."""

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
    """The nearest caller that is an object of a class of ``monai.bundle``."""
    bundle = sys.modules.get("monai.bundle")  # not imported means not running
    frame = sys._getframe(2)
    while bundle is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, getattr(bundle, name)):
            return owner
        frame = frame.f_back
    return None
