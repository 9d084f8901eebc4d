"""Which iterations begin and end an optimizer step when gradients are accumulated."""

from ignite.engine import Engine


def begins_step(engine: Engine) -> bool:
    """Whether the current iteration is the first whose gradients contribute to an optimizer step."""
    return _iteration_in_epoch(engine) % _steps(engine) == 0


def ends_step(engine: Engine) -> bool:
    """Whether the optimizer steps in the current iteration, by the rule of MONAI's ``SupervisedTrainer``.

    It steps every ``accumulation_steps`` iterations of an epoch, and in the epoch's last iteration. An engine without
    that attribute steps in every iteration.
    """
    done = _iteration_in_epoch(engine) + 1
    return done % _steps(engine) == 0 or done == engine.state.epoch_length


def _steps(engine: Engine) -> int:
    return getattr(engine, "accumulation_steps", 1)


def _iteration_in_epoch(engine: Engine) -> int:
    return (engine.state.iteration - 1) % (engine.state.epoch_length or engine.state.iteration)
