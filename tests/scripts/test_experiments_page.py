"""The page about experiments from folders of runs made by hand."""

import json
from pathlib import Path

import pytest

from scripts.experiments_page import changes, load_run, page, parameters, table

CONFIG = Path(__file__).resolve().parents[2] / "bundles" / "liver_tumor_2d" / "configs"


@pytest.fixture
def train() -> dict:
    return json.loads((CONFIG / "train.json").read_text())


def make_run(folder: Path, configuration: dict, liver: list[float], tumor: list[float | None]) -> Path:
    """What training and evaluation leave, as far as the page reads it."""
    for part in ("training", "held_out"):
        (folder / part).mkdir(parents=True)
    (folder / "training" / "run.json").write_text(json.dumps({"configuration": configuration, "device": "a machine"}))
    (folder / "training" / "metrics.csv").write_text("epoch,step,seconds\n1,10,60\n2,20,150.4\n")
    cases = {
        f"volume-{k}": {"liver": {"dice": a}, "tumor": {"dice": b}, "lesions": {"tp": k, "fp": 0, "fn": 0}}
        for k, (a, b) in enumerate(zip(liver, tumor, strict=True))
    }
    found = [b for b in tumor if b is not None]
    mean = {
        "liver": {"dice": sum(liver) / len(liver)},
        "tumor": {"dice": sum(found) / len(found) if found else None},
        "lesions": {"precision": 1.0, "recall": 0.5, "f1": 2 / 3},
    }
    (folder / "held_out" / "scores.json").write_text(json.dumps({"cases": cases, "mean": mean}))
    return folder


@pytest.fixture
def runs(tmp_path, train) -> list[Path]:
    small = {"batch_size": 4, "network_def": train["network_def"] | {"backbone": "resnet18"}}
    loss = json.loads((CONFIG / "loss_tversky.json").read_text())
    (tmp_path / "about.txt").write_text("Two runs\nOn nothing much.\n")
    return [
        make_run(tmp_path / "v2", train | small, [0.9, 0.7], [0.5, None]),
        make_run(tmp_path / "other", train | small | loss, [0.8, 0.6], [None, None]),
    ]


def test_the_table_holds_scores_costs_and_published_figures(runs):
    head, _, first, second = table([load_run(run) for run in runs]).splitlines()
    assert head.split(" | ")[1:4] == ["liver Dice", "tumour Dice", "lesion F1"]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:4] == ["v2", "0.800", "0.500", "0.667"]
    assert cells[5:] == ["80", "3 min", "0.9680, whole liver"]
    assert [cell.strip() for cell in second.strip("|").split("|")][:3] == ["other", "0.700", "-"]


def test_the_page_tells_hypothesis_change_cost_and_score(runs, tmp_path):
    path = tmp_path / "docs" / "experiments.md"
    page(*map(str, runs), output=str(path))
    text = path.read_text()
    assert "## Two runs\n\nOn nothing much." in text
    assert 'Set for all: `batch_size` 4, `network_def#backbone` "resnet18".' in text
    about_other = text.split("### other")[1]
    assert "**Hypothesis**: Tversky (.3, .7)" in about_other
    assert '**Change**: `loss` "custom.losses.Float32Loss", `loss#loss` "TverskyLoss"' in about_other
    assert "3 min for 20 steps of 4 slices" in about_other
    assert "liver Dice 0.700 (0.600 to 0.800 over 2 volumes); tumour Dice -;" in about_other
    assert "none: `train.json` as it is" in text.split("### v2")[1].split("###")[0]
    assert f"![Dice of the versions](experiments_{tmp_path.name}_dice.png)" in text
    assert (path.parent / f"experiments_{tmp_path.name}_dice.png").stat().st_size > 1000
    assert "whole liver" in text and ".739" in text


def test_changes_are_knobs_network_and_loss(train):
    assert changes(train) == {}
    other = train | {"fold": 2, "dataset_dir": "elsewhere", "regions": [[1, 2]], "cases": [], "hypothesis": "new"}
    other["network_def"] = train["network_def"] | {"out_channels": 1}
    assert changes(other) == {"fold": 2, "regions": [[1, 2]], "network_def#out_channels": 1}


def test_parameters_without_those_of_the_classifier(train):
    flexible = json.loads((CONFIG / "v1_baseline.json").read_text())["network_def"]
    # MONAI's EfficientNet-B0 keeps _conv_head (320 x 1280), _bn1 and _fc (1280 x 1000 + 1000), which are not called.
    assert parameters(flexible) == 7_059_846 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000


def test_what_is_no_run_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(SystemExit, match=r"run: found no run\.json, expected the folder of a finished run"):
        page(str(tmp_path / "run"))
