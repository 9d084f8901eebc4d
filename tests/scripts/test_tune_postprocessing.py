import json
import os
from pathlib import Path

import numpy as np
import pytest

from scripts.tune_postprocessing import GRID, START, tune

from custom.data.writing import write_volume
from custom.errors import DataError
from custom.metrics.vesuvius_metric import score_volume
from custom.transforms.postprocessing import PostprocessSurfaced

CHEAP = ("surface_dice", "voi_score")


def label():
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:6] = 1
    mask[11:13] = 1
    return mask


def probability(case):
    """Sheets at 0.7 in noise below 0.6, and specks at 0.8: only 0.65 with small components removed is right."""
    generator = np.random.default_rng(case)
    values = 0.6 * generator.random((16, 16, 16)) ** 0.2
    values[label() == 1] = 0.7
    values[8:9, 3:5, 3:5] = values[8:9, 3:5, 9:11] = 0.8
    return values.astype(np.float32)


GRID_HERE = {"threshold_low": [0.3, 0.65, 0.75], "min_component_voxels": [0, 10], "closing_radius": [0, 2]}


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "probabilities").mkdir()
    for case in (0, 1):
        write_volume(tmp_path / "labels" / f"{case}.tif", label(), np.eye(4))
    np.save(tmp_path / "probabilities" / "0.npy", np.stack([1 - probability(0), probability(0)]))
    write_volume(tmp_path / "probabilities" / "1.tif", np.rint(probability(1) * 255).astype(np.uint8), np.eye(4))
    return str(tmp_path / "probabilities"), str(tmp_path / "labels")


def test_upper_case_suffixes_count_too(folders, tmp_path, capsys):
    for folder in folders:
        os.rename(f"{folder}/1.tif", f"{folder}/1.TIF")
    tune(*folders, output=str(tmp_path / "out.json"), grid={}, parts=CHEAP, leave_one_out=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows if row[1:2] == ["tuned"]} == {"0", "1", "mean"}


def test_the_best_setting_is_found_and_written(folders, tmp_path, capsys):
    output = tmp_path / "configs" / "postprocessing.json"
    tune(*folders, output=str(output), grid=GRID_HERE, parts=CHEAP)
    written = json.loads(output.read_text())
    assert {key.partition("#")[0] for key in written} == {"surface_postprocessing"}
    knobs = {key.partition("#")[2]: value for key, value in written.items()}
    assert knobs == {**START, "threshold_low": 0.65, "min_component_voxels": 10}
    mask = PostprocessSurfaced("pred", **knobs)({"pred": probability(0)[None]})["pred"][0]
    assert score_volume(mask, label(), parts=CHEAP)["score"] == 1

    table = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[2]) for line in table[2:4]]
    assert [line.split()[:2] for line in table[2:4]] == [["threshold_low", "0.65"], ["min_component_voxels", "10"]]
    assert scores == sorted(scores) and scores[-1] == 1


def test_a_volume_left_out_does_not_choose_its_parameters(folders, tmp_path, capsys):
    """A faint volume needs a threshold of 0.3, a bright one 0.75; each gets what the other needs."""
    probabilities = Path(folders[0])
    (probabilities / "1.tif").unlink()
    faint, bright = (np.where(label() == 1, value, value - 0.2) for value in (0.45, 0.85))
    np.save(probabilities / "0.npy", faint.astype(np.float32))
    np.save(probabilities / "1.npy", bright.astype(np.float32))
    tune(
        *folders,
        output=str(tmp_path / "post.json"),
        grid={"threshold_low": [0.3, 0.75]},
        start={"threshold_low": 0.5},
        parts=CHEAP,
        leave_one_out=True,
    )
    table = capsys.readouterr().out.splitlines()
    table = [line.split() for line in table[[line.split()[0] for line in table].index("left") + 1 : -1]]
    scores = {(name, when): float(score) for name, when, score, *_ in table}
    labels = {
        threshold: {case: (faint, bright)[case] >= threshold for case in (0, 1)} for threshold in (0.3, 0.5, 0.75)
    }

    def expected(case, threshold):
        return score_volume(labels[threshold][case], label(), parts=CHEAP)["score"]

    assert scores["0", "start"] == pytest.approx(expected(0, 0.5), abs=1e-4)
    assert scores["0", "tuned"] == pytest.approx(expected(0, 0.75), abs=1e-4)
    assert scores["1", "tuned"] == pytest.approx(expected(1, 0.3), abs=1e-4)
    assert scores["mean", "tuned"] == pytest.approx((expected(0, 0.75) + expected(1, 0.3)) / 2, abs=1e-4)


def test_where_nothing_helps_the_start_stays(folders, tmp_path):
    output = tmp_path / "post.json"
    start = {"threshold_low": 0.65, "min_component_voxels": 10}
    tune(*folders, output=str(output), grid=GRID_HERE, start=start, parts=CHEAP)
    expected = {f"surface_postprocessing#{knob}": value for knob, value in {**START, **start}.items()}
    assert json.loads(output.read_text()) == expected


def test_the_search_is_made_anew(folders, tmp_path):
    output, grid = tmp_path / "post.json", {"threshold_low": [0.5, 0.65]}
    for values in (probability(1), 0.5 * probability(1)):
        for case in (0, 1):
            path = tmp_path / "probabilities" / f"{case}.tif"
            write_volume(path, np.rint(values * 255).astype(np.uint8))
            os.utime(path, (1e9, 1e9))
            (tmp_path / "probabilities" / "0.npy").unlink(missing_ok=True)
        tune(*folders, output=str(output), grid=grid, start={"threshold_low": 0.3}, parts=CHEAP)
        assert (json.loads(output.read_text())["surface_postprocessing#threshold_low"] == 0.65) == (values.max() > 0.65)


def test_the_grid_has_the_knobs_of_the_transform():
    assert GRID.keys() == START.keys()
    PostprocessSurfaced("pred", **START)
    for knob, values in GRID.items():
        assert START[knob] in values, knob


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t: (t / "1.tif").unlink(), "no such file"),
        (lambda p, t: np.save(p / "0.npy", 2 * probability(0)), "0 to 1"),
        (lambda p, t: np.save(p / "0.npy", probability(0)[1:]), r"shape \(15, 16, 16\)"),
        (lambda p, t: (p / "0.npy").write_bytes(b"x"), "unreadable"),
        (lambda p, t: [file.unlink() for file in p.iterdir()], "no probabilities"),
    ],
)
def test_refusals_name_the_file(folders, tmp_path, spoil, message):
    spoil(*map(Path, folders))
    with pytest.raises(DataError, match=message):
        tune(*folders, output=str(tmp_path / "post.json"), grid=GRID_HERE, parts=CHEAP)
    assert not (tmp_path / "post.json").exists()


def test_unknown_knobs_are_refused(folders):
    with pytest.raises(SystemExit, match="radius"):
        tune(*folders, start={"radius": 3})
