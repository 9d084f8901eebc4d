"""The handler counts optimizer steps, and looks at validations for a plateau."""

import pytest
import torch
from ignite.engine import Engine, Events

from custom.handlers import StepSchedule
from custom.training.lr_schedules import build_schedule


def test_one_step_per_optimizer_step(make_trainer, batches):
    """Seven iterations an epoch in groups of three: three optimizer steps, twice."""
    network = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    used = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    schedule = StepSchedule(scheduler=build_schedule(optimizer=optimizer, name="poly", total_steps=6, power=1.0))
    make_trainer(network, batches, [schedule], optimizer=optimizer, epochs=2, accumulation_steps=3).run()
    assert used == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_plateau_is_of_the_validation(make_trainer, batches):
    network = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scores = iter([0.5, 0.6, 0.6, 0.6, 0.7])
    rates = []
    evaluator = Engine(lambda *_: None)
    evaluator.state.key_metric_name = "dice"
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=next(scores)))
    scheduler = build_schedule(optimizer=optimizer, name="plateau", total_steps=35, patience=1, factor=0.1)
    schedule = StepSchedule(scheduler=scheduler, evaluator=evaluator)
    trainer = make_trainer(network, batches, [schedule], optimizer=optimizer, epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run([0]))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_a_plateau_without_validation_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="needs a validation"):
        StepSchedule(scheduler=build_schedule(optimizer=optimizer, name="plateau", total_steps=1))
