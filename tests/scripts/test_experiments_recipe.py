"""The comparison of training recipes."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tifffile
from matplotlib.image import imread

from scripts.experiments.commands import children_seconds
from scripts.experiments.problems import PROBLEMS
from scripts.experiments_recipe import _is_finished, draw_first, table

from custom.errors import DataError

SCROLL, LIVER = PROBLEMS["vesuvius_surface_3d"], PROBLEMS["liver_tumor_2d"]
SCORES = {"score": 0.5, "toposcore": 0.1, "surface_dice": 0.8, "voi_score": 0.6}


def result(folder, seed, score):
    folder = folder / f"seed_{seed}"
    folder.mkdir(parents=True)
    scores = {name: {**SCORES, "score": score} for name in SCROLL.test_sets}
    (folder / "result.json").write_text(json.dumps({"steps": 100, "seconds": 61.2, "scores": scores}))


def test_the_table_has_mean_and_spread_over_seeds(tmp_path):
    result(tmp_path / "default", 0, 0.4)
    result(tmp_path / "default", 1, 0.6)
    result(tmp_path / "nnunet", 0, 0.45)
    lines = table(SCROLL, tmp_path).splitlines()
    assert len(lines) == 2 + 2 * len(SCROLL.test_sets)
    assert "| default | unseen scrolls | 2 | 100 | 61 | 0.500 ± 0.141 | 0.100 ± 0.000 |" in lines[2]
    assert "| nnunet | unseen scrolls | 1 | 100 | 61 | 0.450 | 0.100 |" in lines[4]


def write_scroll(path, values):
    tifffile.imwrite(path, values, photometric="minisblack")


def write_abdomen(path, values):
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


@pytest.mark.parametrize(
    ("problem", "write", "names"),
    [(SCROLL, write_scroll, ["{}.tif"] * 2), (LIVER, write_abdomen, ["volume-{}.nii.gz", "segmentation-{}.nii.gz"])],
    ids=["scroll", "liver"],
)
def test_the_first_volume_of_each_set_is_drawn(problem, write, names, tmp_path):
    values = np.eye(8, dtype=np.uint8)[None].repeat(5, 0)
    data = {name: tmp_path / "data" / name for name in problem.test_sets}
    for name, folder in data.items():
        places = [*problem.places(folder), tmp_path / "run" / "predictions" / name]
        for place, file in zip(places, [*names, names[0]], strict=True):
            place.mkdir(parents=True, exist_ok=True)
            for case in ("7", "8"):
                write(place / file.format(case), values)
    draw_first(problem, data, tmp_path / "run")
    for name in problem.test_sets:
        assert np.ptp(imread(tmp_path / "run" / f"{name}.png")[..., :3]) > 0.5


def test_seconds_of_finished_processes_are_counted():
    before = children_seconds()
    work = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert children_seconds() - before >= 0.3


ARMS = [(problem, path) for problem in PROBLEMS.values() for path in [*problem.arms.glob("*.json"), problem.small]]


@pytest.mark.parametrize(("problem", "path"), ARMS, ids=lambda value: getattr(value, "stem", ""))
def test_arms_change_what_train_json_has(problem, path):
    train = json.loads((problem.bundle / "configs" / "train.json").read_text())
    assert {key.split("#")[0] for key in json.loads(path.read_text())} <= train.keys()


def test_a_finished_training_with_other_options_is_refused(tmp_path):
    options = {"seconds": 1200, "steps": None, "overrides": [{"network_def#init_filters": 8}]}
    assert not _is_finished(tmp_path, options)
    (tmp_path / "result.json").write_text(json.dumps({"steps": 9, "options": options}))
    assert _is_finished(tmp_path, options)
    with pytest.raises(DataError, match=r"result.json: found a training with other options \(seconds: 1200, now 5\)"):
        _is_finished(tmp_path, {**options, "seconds": 5})
