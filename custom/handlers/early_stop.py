"""Early stopping of training."""

from ignite.engine import Engine, Events


class EarlyStop:
    """Ends training after a validation if the key metric has not improved for ``patience`` epochs.

    The epoch of the best metric is taken from the evaluator, for which :class:`Checkpoints` saves it.

    Example: ``{"_target_": "custom.handlers.EarlyStop", "evaluator": "@validate#evaluator", "patience": 10}``

    Args:
        patience: number of epochs without improvement; None never stops.
    """

    def __init__(self, *, evaluator: Engine, patience: int | None = None) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        if self.patience is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._stop_without_improvement, engine)

    def _stop_without_improvement(self, evaluator: Engine, engine: Engine) -> None:
        best = max(0, evaluator.state.best_metric_epoch)  # -1 if no score so far was finite
        if not engine.should_terminate and engine.state.epoch - best >= self.patience:
            engine.terminate()
