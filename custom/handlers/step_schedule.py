"""Learning-rate schedules that count optimizer steps."""

from typing import Any

from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .accumulation import ends_step


class StepSchedule:
    """Steps a scheduler after every optimizer step, or a ``ReduceLROnPlateau`` after every validation.

    MONAI's ``LrScheduleHandler`` counts iterations, several of which make one optimizer step when gradients are
    accumulated. Steps that were skipped because a gradient was not finite count too.

    Example: ``{"_target_": "custom.handlers.StepSchedule", "scheduler": "@lr_scheduler"}``

    Args:
        scheduler: from :func:`custom.training.lr_schedules.build_schedule`, or any torch scheduler.
        evaluator: the validation engine, whose key metric ``ReduceLROnPlateau`` uses.
    """

    def __init__(self, *, scheduler: LRScheduler, evaluator: Engine | None = None) -> None:
        self.scheduler = scheduler
        self.evaluator = evaluator
        if isinstance(scheduler, ReduceLROnPlateau) and evaluator is None:
            raise ValueError("the schedule 'plateau' needs a validation, expected an evaluator")

    def attach(self, engine: Engine) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.evaluator.add_event_handler(Events.COMPLETED, self._step_on_metric)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        if ends_step(engine):
            self.scheduler.step()

    def _step_on_metric(self, evaluator: Engine, *_: Any) -> None:
        self.scheduler.step(evaluator.state.metrics[evaluator.state.key_metric_name])
