"""Moving a learning-rate schedule on by optimizer steps."""

from typing import Any

from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .accumulation import ends_step


class StepSchedule:
    """Steps a scheduler after every optimizer step, or a ``ReduceLROnPlateau`` after every validation.

    MONAI's ``LrScheduleHandler`` counts iterations, of which several make one optimizer step when gradients are
    accumulated. Steps that were left out because a gradient overflowed count too: the run is as long as planned.

    Args:
        scheduler: from :func:`custom.training.lr_schedules.build_schedule`, or any of torch's.
        evaluator: the validation engine, whose key metric ``ReduceLROnPlateau`` looks at.
    """

    def __init__(self, *, scheduler: LRScheduler, evaluator: Engine | None = None) -> None:
        self.scheduler = scheduler
        self.evaluator = evaluator
        if isinstance(scheduler, ReduceLROnPlateau) and evaluator is None:
            raise ValueError("the schedule 'plateau' needs a validation, expected an evaluator")

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.evaluator.add_event_handler(Events.COMPLETED, self._look)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        if ends_step(engine):
            self.scheduler.step()

    def _look(self, evaluator: Engine, *_: Any) -> None:
        self.scheduler.step(evaluator.state.metrics[evaluator.state.key_metric_name])
