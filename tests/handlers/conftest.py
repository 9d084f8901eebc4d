"""A trainer small enough to check by hand."""

from collections.abc import Callable

import pytest
import torch
from monai.engines import SupervisedTrainer


@pytest.fixture
def make_trainer() -> Callable[..., SupervisedTrainer]:
    """``make_trainer(network, batches, handlers, ...)``: one epoch over a list of batches."""

    def make(network, batches, handlers=(), *, optimizer, loss=None, epochs=1, epoch_length=None, **options):
        return SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=batches,
            epoch_length=epoch_length or len(batches),
            network=network,
            optimizer=optimizer,
            loss_function=loss or torch.nn.MSELoss(),
            decollate=False,
            train_handlers=list(handlers),
            **options,
        )

    return make


@pytest.fixture
def batches() -> list[dict]:
    """Seven batches of two items with four values each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(2, 4, generator=generator),
            "label": torch.randn(2, 1, generator=generator),
            "id": [f"case{2 * n}", f"case{2 * n + 1}"],
        }
        for n in range(7)
    ]
