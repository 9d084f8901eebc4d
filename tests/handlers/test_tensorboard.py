"""The event files, read back."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from custom.handlers import TensorBoard

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


class Loss(torch.nn.Module):
    """A loss within a loss, with components."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Module()
        self.inner.components = {}


def read(folder):
    events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    scalars = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return scalars, events.Tags()["images"]


def run(folder, steps=3, epochs=2, start=0, validate=True, stop=None):
    loss = Loss()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)

    def step(engine, _):
        n = float(engine.state.iteration)
        loss.inner.components = {"dice": torch.tensor(10 * n)}
        engine.state.gradient_norm = 100 * n
        return {"loss": torch.tensor(n)}

    trainer, evaluator = Engine(step), Engine(lambda *_: None)
    evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=0.5, each=torch.tensor([1.0, 2.0]))
    )
    trainer.state.resources = {"data_wait": 0.25}
    if validate:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run([0]))
    if stop:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), lambda e: e.terminate(skip_completed=True))
    TensorBoard(output_dir=str(folder), optimizer=optimizer, loss=loss, evaluator=evaluator).attach(trainer)
    trainer.load_state_dict({"iteration": start, "max_epochs": epochs, "epoch_length": steps})
    trainer.run(range(steps), max_epochs=epochs)


def test_every_curve(tmp_path):
    run(tmp_path)
    scalars, images = read(tmp_path)
    steps = range(1, 7)
    assert scalars == {
        "train/loss": [(n, n) for n in steps],
        "train/loss_dice": [(n, 10 * n) for n in steps],
        "train/learning_rate": [(n, 0.5) for n in steps],
        "train/gradient_norm": [(n, 100 * n) for n in steps],
        "resources/data_wait": [(3, 0.25), (6, 0.25)],
        "validation/dice": [(3, 0.5), (6, 0.5)],
    }
    assert images == []


def test_more_steps_than_are_held(tmp_path):
    run(tmp_path, steps=45, epochs=1)
    assert read(tmp_path)[0]["train/loss"] == [(n, n) for n in range(1, 46)]


def test_pictures_as_drawn(tmp_path):
    from matplotlib.image import imsave

    (tmp_path / "panels").mkdir()
    imsave(tmp_path / "panels" / "case1.png", np.full((4, 6, 3), 255, np.uint8))
    run(tmp_path, epochs=1)
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    (picture,) = events.Images("panels/case1")
    assert (picture.step, picture.height, picture.width) == (3, 4, 6)


def test_no_metrics_without_a_validation(tmp_path):
    run(tmp_path, validate=False)
    assert not [name for name in read(tmp_path)[0] if name.startswith("validation")]


def test_a_resumed_run_goes_on_in_the_same_curve(tmp_path):
    """The first session wrote up to step 5 and saved step 4."""
    run(tmp_path, stop=5)
    run(tmp_path, start=4)
    assert read(tmp_path)[0]["train/loss"] == [(n, n) for n in range(1, 7)]


def test_a_picture_that_a_killed_session_left_half_is_not_shown(tmp_path):
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / ".123.a.png").write_bytes(b"half")
    run(tmp_path)
    assert read(tmp_path)[1] == []


def test_a_full_disk_ends_the_curves_and_not_the_training(tmp_path, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    run(tmp_path)
    assert caplog.text.count("not written ([Errno 28] No space left on device); the run goes on") == 1
