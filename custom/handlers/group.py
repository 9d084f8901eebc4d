"""Several handlers behind one entry of a configuration."""

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine

from ..errors import DataError, nearest


class HandlerGroup:
    """Attaches handlers in a fixed order; each can be switched off or replaced by its name.

    In a configuration, ``"tensorboard": false`` switches that handler of the group off, and ``"tensorboard":
    {"_target_": ...}`` replaces it.

    Example: ``--train#handlers#3#tensorboard False``

    Args:
        handlers: handlers by name, in the order in which they are attached; None for one that is off by default.
        changes: by name: False or None switches a handler off, True keeps it, anything else replaces it.

    Raises:
        DataError: ``changes`` names a handler that the group does not have, or gives one a value that is no handler.
    """

    def __init__(self, handlers: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        for name in changes.keys() - handlers.keys():
            expected = nearest(name, list(handlers)) or f"one of {', '.join(handlers)}"
            raise DataError.of(name, f"no such handler of {type(self).__name__}", expected)
        for name, change in changes.items():
            if not (change is None or isinstance(change, bool) or hasattr(change, "attach")):
                raise DataError.of(name, repr(change), "True, False or a handler")
        chosen = {name: own if changes.get(name, True) is True else changes[name] for name, own in handlers.items()}
        self.handlers = {name: handler for name, handler in chosen.items() if handler not in (None, False)}

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers.values():
            handler.attach(engine)
