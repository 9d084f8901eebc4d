"""``--tracking mlflow`` on a bundle's trainer."""

import sqlite3

import pytest
import torch
from ignite.engine import Events
from monai.handlers import MLFlowHandler, from_engine
from monai.utils import path_to_sqlite_uri

import custom.handlers  # noqa: F401 - which adapts the handler


def handler(folder) -> MLFlowHandler:
    """As MONAI's runner makes it for a trainer."""
    return MLFlowHandler(
        tracking_uri=path_to_sqlite_uri(str(folder / "mlruns.db")),
        experiment_name="tests",
        run_name="a run",
        iteration_log=True,
        epoch_log=True,
        tag_name="train_loss",
        output_transform=from_engine(["loss"], first=True),
        close_on_complete=True,
    )


@pytest.mark.slow
def test_the_loss_of_every_step_is_logged(make_trainer, batches, tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    network = torch.nn.Linear(4, 1)
    losses = []
    trainer = make_trainer(
        network, batches, [handler(tmp_path)], optimizer=torch.optim.SGD(network.parameters(), lr=0.1)
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        found = database.execute("select value from metrics where key = 'train_loss' order by step").fetchall()
        assert database.execute("select name from runs").fetchall() == [("a run",)]
    assert [value for (value,) in found] == pytest.approx(losses)
