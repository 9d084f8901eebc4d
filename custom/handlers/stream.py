"""The training's stream of batches follows the trainer."""

from typing import Any

from ignite.engine import Engine


class FollowTrainer:
    """Attach a :class:`custom.data.StreamLoader` to its trainer: after a resume the stream goes on where it was left.

    The loader could stand in the list of handlers itself, but MONAI's check of a bundle's properties wants every
    handler to be a component.

    Args:
        loader: the trainer's loader.
    """

    def __init__(self, *, loader: Any) -> None:
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        self.loader.attach(engine)
