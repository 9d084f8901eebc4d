"""The comparison of training recipes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from matplotlib.image import imread

from scripts.experiments.commands import children_seconds
from scripts.experiments_recipe import ARMS, BUNDLE, TEST_SETS, draw_first, table

SCORES = {"score": 0.5, "toposcore": 0.1, "surface_dice": 0.8, "voi_score": 0.6}


def result(folder, seed, score):
    folder = folder / f"seed_{seed}"
    folder.mkdir(parents=True)
    scores = {name: {**SCORES, "score": score} for name in TEST_SETS}
    (folder / "result.json").write_text(json.dumps({"steps": 100, "seconds": 61.2, "scores": scores}))


def test_the_table_has_mean_and_spread_over_seeds(tmp_path):
    result(tmp_path / "default", 0, 0.4)
    result(tmp_path / "default", 1, 0.6)
    result(tmp_path / "nnunet", 0, 0.45)
    lines = table(tmp_path).splitlines()
    assert len(lines) == 2 + 2 * len(TEST_SETS)
    assert "| default | unseen scrolls | 2 | 100 | 61 | 0.500 ± 0.141 | 0.100 ± 0.000 |" in lines[2]
    assert "| nnunet | unseen scrolls | 1 | 100 | 61 | 0.450 | 0.100 |" in lines[4]


def test_the_first_volume_of_each_set_is_drawn(tmp_path):
    data = {name: tmp_path / "data" / name for name in TEST_SETS}
    for name, folder in data.items():
        for place in (folder / "test_images", folder / "test_labels", tmp_path / "run" / "predictions" / name):
            place.mkdir(parents=True)
            for case in ("7", "8"):
                tifffile.imwrite(
                    place / f"{case}.tif", np.eye(8, dtype=np.uint8)[None].repeat(5, 0), photometric="minisblack"
                )
    draw_first(data, tmp_path / "run")
    for name in TEST_SETS:
        assert np.ptp(imread(tmp_path / "run" / f"{name}.png")[..., :3]) > 0.5


def test_seconds_of_finished_processes_are_counted():
    before = children_seconds()
    work = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert children_seconds() - before >= 0.3


@pytest.mark.parametrize("path", sorted(ARMS.glob("*.json")), ids=lambda path: path.stem)
def test_arms_change_what_train_json_has(path):
    train = json.loads((BUNDLE / "configs" / "train.json").read_text())
    assert {key.split("#")[0] for key in json.loads(path.read_text())} <= train.keys()
