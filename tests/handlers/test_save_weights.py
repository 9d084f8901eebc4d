"""Which weights reach the disk, and when."""

import math
import resource

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from custom.errors import DataError
from custom.handlers import SaveBestWeights, SaveFinalWeights


def saved(path):
    return torch.load(path, weights_only=True)["weight"].item() if path.exists() else None


def scores_to_saved(folder, scores):
    """Validate once for each score, with the epoch's number as the weight; what is on disk after each."""
    network = torch.nn.Linear(1, 1, bias=False)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"image": torch.zeros(1, 1), "label": torch.zeros(1, 1)}],
        network=network,
        key_val_metric={"dice": Score(scores)},
        val_handlers=[SaveBestWeights(path=str(folder / "model.pt"), network=network)],
    )
    found = []
    for epoch in range(1, len(scores) + 1):
        torch.nn.init.constant_(network.weight, epoch)
        evaluator.run(epoch)
        found.append(saved(folder / "model.pt"))
    return found


class Score:
    """Stands in for a metric whose values are given."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def attach(self, engine, name):
        engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update({name: next(self.scores)})
        )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.4, 0.6, 0.6], [1, 1, 3, 3]),
        ([-3.0, -2.0], [1, 2]),
        ([math.nan, 0.2, math.nan, 0.1, 0.3], [None, 2, 2, 2, 5]),
        ([math.inf, 0.2], [None, 2]),
    ],
)
def test_the_best_so_far(tmp_path, scores, expected):
    assert scores_to_saved(tmp_path, scores) == expected


def test_final_weights_of_a_complete_run_only(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)

    def run(name, stop=lambda _: None):
        engine = Engine(lambda *_: None)
        engine.add_event_handler(Events.ITERATION_COMPLETED, stop)
        SaveFinalWeights(path=str(tmp_path / name), network=network).attach(engine)
        engine.run([0], max_epochs=2)

    run("complete.pt")
    run("early.pt", lambda engine: engine.terminate())
    run("interrupted.pt", lambda engine: engine.terminate(skip_completed=True))
    assert saved(tmp_path / "complete.pt") == saved(tmp_path / "early.pt") == network.weight.item()
    assert not (tmp_path / "interrupted.pt").exists()


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.handlers.save_weights.rank", lambda: 1)
    assert scores_to_saved(tmp_path, [0.5]) == [None]


def test_numbers_that_are_none_leave_the_former_best(tiny_run, tmp_path, monkeypatch):
    """A volume with a faulty voxel is met in the second epoch: the run stops, names it, and keeps what it had."""
    monkeypatch.setattr(tiny_run.Items, "__getitem__", tiny_run.Items.__getitem__)  # put back afterwards
    tiny_run.spoil(37)
    trainer = tiny_run.build(tmp_path)
    best = []
    trainer.evaluator.add_event_handler(Events.COMPLETED, lambda _: best.append((tmp_path / "model.pt").read_bytes()))
    with pytest.raises(DataError, match=r"^case5: found voxels that are not finite"):
        trainer.run()
    trainer.checkpoints.wait()
    assert trainer.state.iteration == 11  # items 36 to 39 are in batch 10, which begins a group of two
    assert len(best) == 1 and (tmp_path / "model.pt").read_bytes() == best[0]
    assert not (tmp_path / "model_final.pt").exists()
    newest = torch.load(trainer.checkpoints._files()[0], weights_only=True)
    assert newest["iteration"] == 9
    for name in ("network", "ema"):
        assert all(torch.isfinite(value).all() for value in newest["objects"][name].values())


def test_weights_that_cannot_be_written_are_an_error_in_one_line(tmp_path):
    """Here the file would be larger than the process may write; torch has its own words for it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    engine = Engine(lambda *_: None)
    SaveFinalWeights(path=str(tmp_path / "model.pt"), network=torch.nn.Linear(1000, 1000)).attach(engine)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"model.pt: found weights that cannot be written .* GB free\)") as error:
            engine.run([0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
