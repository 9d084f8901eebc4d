"""The rule for optimizer steps against the optimizer's own steps in MONAI's trainer."""

import pytest
import torch
from ignite.engine import Events

from custom.handlers.accumulation import begins_step, ends_step


@pytest.mark.parametrize("accumulation", [1, 2, 3, 7, 10])
def test_agrees_with_monai(make_trainer, batches, accumulation):
    network = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = make_trainer(network, batches, optimizer=optimizer, epochs=2, accumulation_steps=accumulation)
    begins, ends, cleared, stepped = [], [], [], []
    zero_grad = optimizer.zero_grad

    def clear(**options):
        cleared.append(trainer.state.iteration)
        zero_grad(**options)

    optimizer.zero_grad = clear
    optimizer.register_step_post_hook(lambda *_: stepped.append(trainer.state.iteration))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: (
            begins.append(engine.state.iteration) if begins_step(engine) else None,
            ends.append(engine.state.iteration) if ends_step(engine) else None,
        ),
    )
    trainer.run()
    assert begins == cleared
    assert ends == stepped and ends[-1] == 14
