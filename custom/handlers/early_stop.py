"""Early stopping of training."""

from ignite.engine import Engine, Events


class EarlyStop:
    """Ends training when the key metric has not improved for ``patience`` epochs.

    The epoch of the best metric is taken from the evaluator, for which :class:`Checkpoints` saves it. List this handler
    after the ``ValidationHandler``.

    Example: ``{"_target_": "custom.handlers.EarlyStop", "evaluator": "@validate#evaluator", "patience": 10}``

    Args:
        patience: number of epochs without improvement; None never stops.
    """

    def __init__(self, *, evaluator: Engine, patience: int | None = None) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        if self.patience is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_without_improvement)

    def _stop_without_improvement(self, engine: Engine) -> None:
        best = max(0, self.evaluator.state.best_metric_epoch)  # -1 before the first validation
        if not engine.should_terminate and engine.state.epoch - best >= self.patience:
            engine.terminate()
