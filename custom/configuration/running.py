"""Finds the running MONAI parser or workflow in the call stack."""

import sys
from typing import Any


def running(name: str) -> Any:
    """Return what instantiates the calling component, an instance of this class of ``monai.bundle``; None if nothing.

    An application that uses the parser directly has no workflow.
    """
    bundle = sys.modules.get("monai.bundle")  # not imported means not running
    frame = sys._getframe(1)
    while bundle is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, getattr(bundle, name)):
            return owner
        frame = frame.f_back
    return None
