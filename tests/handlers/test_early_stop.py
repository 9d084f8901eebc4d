"""Training ends when the best validation is long ago, right after a validation, also over sessions."""

import pytest
from ignite.engine import Engine, Events
from ignite.engine.engine import State

from custom.handlers import EarlyStop


def epochs(scores, patience, best=(-1, -1), start=0, interval=1):
    """How many epochs a training has whose validations, every ``interval`` epochs, give these scores."""
    evaluator = Engine(lambda *_: None)
    evaluator.state = State(best_metric=best[0], best_metric_epoch=best[1])
    trainer = Engine(lambda *_: None)
    completed = []

    def validate(engine):
        score = scores[engine.state.epoch - 1]
        if score > evaluator.state.best_metric:
            evaluator.state.best_metric, evaluator.state.best_metric_epoch = score, engine.state.epoch
        evaluator.run([0])

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=interval), validate)
    EarlyStop(evaluator=evaluator, patience=patience).attach(trainer)
    trainer.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.epoch))
    trainer.load_state_dict({"epoch": start, "max_epochs": len(scores), "epoch_length": 1})
    trainer.run([0], max_epochs=len(scores))
    return completed


@pytest.mark.parametrize(
    ("patience", "expected"), [(1, 3), (2, 7), (3, 8), (None, 8)], ids=["one", "two", "three", "never"]
)
def test_ends_after_patience(patience, expected):
    assert epochs([0.1, 0.2, 0.2, 0.3, 0.4, 0.3, 0.3, 0.3], patience) == [expected]


def test_goes_on_counting_in_another_session():
    """Best in the second of four epochs before."""
    assert epochs([0.1, 0.5, 0.4, 0.4, 0.4, 0.4], 3, best=(0.5, 2), start=4) == [5]


def test_epochs_without_validation_end_nothing():
    """Validated after 5, 10 and 15 of 17 epochs; best after 5, so 10 is the first to end it."""
    scores = [0.0] * 4 + [0.5] + [0.0] * 4 + [0.4] + [0.0] * 7
    assert epochs(scores, 3, interval=5) == [10]
    assert epochs([0.5] * 6, 3, interval=5) == [6]
    assert epochs([0.5] * 4, 3, interval=5) == [4]


def test_without_any_good_score():
    assert epochs([-5.0] * 6, 4) == [4]
