"""The soak in a short form; and that it finds what it is there for."""

import numpy as np
import pytest
import torch

from scripts.soaking.chain import run_chain
from scripts.soaking.dataset import write_dataset
from scripts.soaking.training import run_training, workflow

from custom.transforms import BatchCompose

SHAPES = {"vesuvius_surface_3d": [12, 24, 24], "liver_tumor_2d": [48, 48]}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", SHAPES)
def test_no_item_and_no_step_is_at_fault(bundle, tmp_path):
    data = write_dataset(bundle, tmp_path, 48)
    flow = workflow(bundle, data, tmp_path, steps=1, num_workers=0)
    parts = [flow.parser.get_parsed_content(f"train#{key}") for key in ("dataset", "batch_transforms")]
    assert run_chain(*parts, 40, SHAPES[bundle], bundle) == []
    assert run_training(workflow(bundle, data, tmp_path, steps=1, num_workers=0), tmp_path) == []


class Items:
    """Items of a saturated image."""

    def __getitem__(self, k):
        image, label = torch.full((1, 4, 5, 6), 255.0), torch.ones(1, 4, 5, 6, dtype=torch.uint8)
        return {"image": image, "label": label, "id": "a", "seed": k}


def changed(**changes):
    """A transform that does one thing to each of some entries."""

    def transform(item):
        return {key: changes[key](value) if key in changes else value for key, value in item.items()}

    return transform


@pytest.mark.parametrize(
    ("transform", "fault"),
    [
        (changed(image=lambda image: image + 3e-5), "from 255.000031 to 255.000031, expected 254.99999 to 255"),
        (changed(image=lambda image: image * np.nan), "an image that is not finite"),
        (changed(label=lambda label: label + 2), "label values [3]"),
        (changed(image=lambda image: image[:, 1:]), "image (1, 3, 5, 6), label (1, 4, 5, 6)"),
    ],
)
def test_faults_are_named(transform, fault):
    first, second = run_chain(Items(), BatchCompose([transform]), 2, [4, 5, 6], "items")
    assert first.startswith("item 0: FaultError: ") and fault in first
    assert second.startswith("item 1: ")


def test_no_fault_in_what_is_left_alone():
    assert run_chain(Items(), BatchCompose([changed()]), 2, [4, 5, 6], "items") == []


def test_a_training_that_ends_early_is_a_fault(tmp_path):
    class Failing:
        def run(self):
            raise RuntimeError("found grey values from 6.06973 to 255")

    assert run_training(Failing(), tmp_path) == ["training: RuntimeError: found grey values from 6.06973 to 255"]
