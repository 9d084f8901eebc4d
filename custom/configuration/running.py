"""Finds the running MONAI parser and workflow in the call stack."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow


def running_parser() -> "ConfigParser | None":
    """Return the parser that instantiates the calling component; None outside of a bundle."""
    return _caller("ConfigParser")


def running_workflow() -> "ConfigWorkflow | None":
    """Return the workflow that instantiates the calling component; None if an application uses the parser directly."""
    return _caller("ConfigWorkflow")


def _caller(name: str) -> Any:
    """Return the nearest caller that is an instance of a class of ``monai.bundle``."""
    bundle = sys.modules.get("monai.bundle")  # not imported means not running
    frame = sys._getframe(2)
    while bundle is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, getattr(bundle, name)):
            return owner
        frame = frame.f_back
    return None
