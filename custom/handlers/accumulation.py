"""Which iterations begin and end an optimizer step when gradients are accumulated."""

from ignite.engine import Engine


def begins_step(engine: Engine) -> bool:
    """Whether the current iteration is the first whose gradients go into an optimizer step."""
    return _place(engine) % _steps(engine) == 0


def ends_step(engine: Engine) -> bool:
    """Whether the optimizer steps in the current iteration, the rule of MONAI's ``SupervisedTrainer``.

    Every ``accumulation_steps`` iterations, counted within the epoch, and at the end of the epoch, whose last group
    may be shorter. An engine without that attribute steps in every iteration.
    """
    place = _place(engine) + 1
    return place % _steps(engine) == 0 or place == engine.state.epoch_length


def _steps(engine: Engine) -> int:
    return getattr(engine, "accumulation_steps", 1)


def _place(engine: Engine) -> int:
    """The iteration's number within its epoch, from 0."""
    return (engine.state.iteration - 1) % (engine.state.epoch_length or engine.state.iteration)
