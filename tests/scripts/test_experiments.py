"""The experiments leave it to the commands that they call to know what is done."""

import json
import os

import numpy as np
import pytest

from scripts import experiments_liver, experiments_vesuvius

from custom.data import write_volume


@pytest.fixture
def called(monkeypatch):
    """What would be run, instead of running it."""
    calls = []
    for module in (experiments_liver, experiments_vesuvius):
        monkeypatch.setattr(module, "run_bundle", lambda _, run_id, configs, **options: calls.append((run_id, options)))
        monkeypatch.setattr(module, "run_python", lambda *words, **options: calls.append((words[0], options)))
    return calls


def test_what_is_there_does_not_pass_for_done(called, tmp_path):
    for name in ("models/model_final.pt", "held_out/scores.json"):
        (tmp_path / "v2" / name).parent.mkdir(parents=True)
        (tmp_path / "v2" / name).write_text("of other options")
    experiments_liver._train_and_score([], tmp_path / "v2", tmp_path / "phantoms", {"slice_size": [96, 96]})
    assert [run_id for run_id, _ in called] == ["training", "evaluating"]
    assert called[0][1]["resume"] is True  # goes on with the same options, is refused with others


def test_predictions_and_tuning_are_asked_for_again(called, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "post.json").write_text('{"threshold_low": 0.3}')
    experiments_vesuvius._predict(tmp_path / "images", tmp_path, tmp_path / "test")
    assert experiments_vesuvius._tune(tmp_path / "test", tmp_path, tmp_path / "post.json", {}) == {"threshold_low": 0.3}
    assert [run_id for run_id, _ in called] == ["inferring", "scripts/tune_postprocessing.py"]


def test_scores_are_those_of_the_probabilities_that_are_there(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments_vesuvius, "score_volume", lambda mask, label: dict.fromkeys(COLUMNS, mask.mean()))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "predictions.json").write_text("{}")  # the record that inference leaves there
    write_volume(tmp_path / "labels" / "a.tif", np.zeros((3, 4, 5), np.uint8))
    for value in (255, 0):
        write_volume(tmp_path / "p" / "a.tif", np.full((3, 4, 5), value, np.uint8))
        os.utime(tmp_path / "p" / "a.tif", (1e9, 1e9))
        mean = experiments_vesuvius._score(tmp_path / "p", tmp_path / "labels", {}, tmp_path / "scores.json")
        assert mean["score"] == (value > 0) == json.loads((tmp_path / "scores.json").read_text())["mean"]["score"]


COLUMNS = experiments_vesuvius.COLUMNS
