"""What is written beside the weights is enough to do it again."""

import json
import subprocess
import sys

import numpy
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.handlers import RunRecord
from custom.handlers.run_record import commit, versions

CASES = [{"id": "a", "image": "a.nii", "label": "b.nii"}]


def record(folder, **options):
    engine = Engine(lambda *_: None)
    parser = ConfigParser(
        {
            "learning_rate": "$1 / 4",
            "optimizer": {"_target_": "torch.nn.Threshold", "threshold": "@learning_rate", "value": 0},
            "configuration": {"_target_": "custom.configuration.Configuration"},
            "record": {
                "_target_": "custom.handlers.RunRecord",
                "folders": [str(folder / "run"), str(folder / "models")],
                "cases": {"training": CASES},
                "configuration": "@configuration",
            },
        }
    )
    parser.get_parsed_content("optimizer")
    parser.get_parsed_content("record").attach(engine)
    engine.run([0], max_epochs=1)
    return json.loads((folder / "models" / "run.json").read_text())


def test_the_configuration_can_be_run_again(tmp_path):
    found = record(tmp_path)
    assert (tmp_path / "run" / "run.json").read_text() == (tmp_path / "models" / "run.json").read_text()
    assert found["configuration"]["learning_rate"] == 0.25
    again = ConfigParser(found["configuration"]).get_parsed_content("optimizer")
    assert again.threshold == 0.25
    assert found["cases"] == {"training": CASES}
    assert found["command"] == sys.orig_argv and found["ranks"] == 1


def test_versions_are_those_in_use():
    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == numpy.__version__


def test_the_commit(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr("custom.handlers.run_record._SOURCE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit() == head
    (tmp_path / "file").write_text("two")
    assert commit() == f"{head}+changes"


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.handlers.run_record.rank", lambda: 1)
    engine = Engine(lambda *_: None)
    RunRecord(folders=[str(tmp_path / "run")]).attach(engine)
    engine.run([0], max_epochs=1)
    assert not (tmp_path / "run").exists()
