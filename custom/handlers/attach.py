"""One object both in the list of handlers and known to others."""

from typing import Any

from ignite.engine import Engine


class Attach:
    """Attaches what stands elsewhere in the configuration to the engine in whose list of handlers this stands.

    A plain reference would do for MONAI's engines, but its check of a bundle's properties wants every handler to be a
    component.

    Args:
        handler: anything that can be attached: a handler that others refer to, a :class:`custom.data.StreamLoader`.
    """

    def __init__(self, *, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        self.handler.attach(engine)
