"""Ending a training that no longer gets better."""

from ignite.engine import Engine, Events


class EarlyStop:
    """Completes the training when the best validation lies ``patience`` epochs back.

    It keeps nothing of its own: the epoch of the best metric is the evaluator's, which :class:`Checkpoints` carries
    over to the next session. List it after the ``ValidationHandler``.

    Args:
        evaluator: the validation engine.
        patience: epochs; None never stops.
    """

    def __init__(self, *, evaluator: Engine, patience: int | None = None) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self.patience is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        best = max(0, self.evaluator.state.best_metric_epoch)  # -1 before the first
        if not engine.should_terminate and engine.state.epoch - best >= self.patience:
            engine.terminate()
