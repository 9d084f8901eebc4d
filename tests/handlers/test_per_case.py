"""The others are finished, and the end names those that failed."""

import logging

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from custom.errors import DataError
from custom.handlers.per_case import PerCaseUpdate

IMAGE = {"image": torch.zeros(1, 2, 2, 2)}


class Sum(torch.nn.Module):
    """Counts what it sees; refuses an image of ones."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, image):
        self.seen += 1
        if image.min() == 1:
            raise RuntimeError("no\nluck")
        return image.sum(dim=(2, 3, 4))


def run(*items):
    network = Sum()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(list(items)), batch_size=1),
        network=network,
        iteration_update=PerCaseUpdate(output_dir="there"),
    )
    try:
        evaluator.run()
    finally:
        assert evaluator.state.iteration == len(items)
    return network.seen


def test_nothing_fails():
    assert run(IMAGE | {"id": "a"}, IMAGE | {"id": "b"}) == 2


def test_done_ones_are_counted_and_not_predicted(caplog):
    caplog.set_level(logging.INFO)
    assert run({"id": "a", "done": "a.tif"}, IMAGE | {"id": "b"}, {"id": "c", "done": "c.tif"}) == 1
    assert "2 of 3 predictions were there already" in caplog.text
    assert run({"id": "a", "done": "a.tif"}) == 0


def test_one_that_cannot_be_read(caplog):
    with pytest.raises(DataError) as caught:
        run({"id": "a", "failed": "a.tif: found nothing"}, IMAGE | {"id": "b"})
    assert str(caught.value) == (
        "2 cases: found 1 that failed (a.tif: found nothing), expected none; the others are in there"
    )
    assert "a.tif: found nothing" in caplog.text


def test_one_that_cannot_be_predicted_keeps_its_traceback(caplog):
    ones = {"image": torch.ones(1, 2, 2, 2), "id": "b"}
    with pytest.raises(DataError, match=r"found 2 that failed \(b: RuntimeError: no luck and 1 more, listed above\)"):
        run(ones, IMAGE | {"id": "c"}, {"id": "d", "failed": "d.tif: found nothing"})
    assert "Traceback" in caplog.text
    assert "failed: d.tif: found nothing" in caplog.text


def test_the_only_case_is_named_as_it_is():
    with pytest.raises(DataError, match=r"^a\.tif: found nothing$"):
        run({"id": "a", "failed": "a.tif: found nothing"})
