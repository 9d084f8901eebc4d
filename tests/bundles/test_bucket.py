"""A run whose results are to be in a bucket goes on from there on another machine."""

from pathlib import Path

import fsspec
import pytest
from monai.bundle import ConfigWorkflow

URL = "memory://bucket/run1"


@pytest.fixture
def system():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/bucket", recursive=True)


def train(bundle, machine: Path, **options):
    workflow = ConfigWorkflow(
        bundle.configs("train"),
        workflow_type="train",
        run_id="training",
        logging_file=False,
        bundle_root=str(machine),
        cache_dir=str(machine.parent / "cache"),
        output_dir=URL,
        **bundle.options | options,
    )
    workflow.initialize()
    workflow.run()
    return workflow.parser.get_parsed_content("train#trainer")


@pytest.mark.slow
def test_another_machine_goes_on(bundle, system, tmp_path):
    assert train(bundle, tmp_path / "first").state.iteration == 4
    there = {path.removeprefix("/bucket/run1/") for path in system.find("/bucket/run1")}
    assert there >= {
        "models/model.pt",
        "models/model_final.pt",
        "models/run.json",
        "models/checkpoints/step_00000004.pt",
    }
    assert there >= {"results/metrics.csv", "results/curves.png", "results/run.json"}
    assert (tmp_path / "first" / "eval" / "run1" / "metrics.csv").exists()

    # before its last step, the first machine had been taken away
    for path in system.find("/bucket/run1"):
        if path.endswith(("step_00000004.pt", "model_final.pt")):
            system.rm(path)
    trainer = train(bundle, tmp_path / "second", resume=True)
    assert trainer.state.iteration == 4
    files = [Path("models/model_final.pt"), Path("eval/run1/metrics.csv")]
    assert all((tmp_path / "second" / file).exists() for file in files)
    assert "models/model_final.pt" in {path.removeprefix("/bucket/run1/") for path in system.find("/bucket/run1")}
