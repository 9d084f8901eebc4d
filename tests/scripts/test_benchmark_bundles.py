"""The sections on whole bundles, at sizes where scores and timings say nothing."""

import pytest

from scripts.benchmarks import bundles, training

SMALL = {
    "vesuvius_surface_3d": {
        "patch_size": [16, 32, 32],
        "stride": [16, 32, 32],
        "num_workers": 0,
        "network_def#init_filters": 8,
        "n_folds": 2,
    },
    "liver_tumor_2d": {
        "batch_size": 2,
        "slice_size": [48, 48],
        "num_workers": 0,
        "network_def#backbone": "resnet18",
        "network_def#decoder_channels": [16, 16, 8, 8, 8],
        "n_folds": 2,
    },
}
SHORT = {"liver_tumor_2d": {**SMALL["liver_tumor_2d"], "epochs": 2, "steps_per_epoch": 2}}


def test_both_bundles_are_planned():
    rows = bundles.run("cpu", bundles.Sizes(options=SMALL, scroll=32, ct=48, slices=8, n_train=2))
    steps = [row for row in rows if row.what.endswith("a step, data included")]
    assert [row.what.split(",")[1].strip() for row in steps] == ["2 x 1 x 16 x 32 x 32", "2 x 1 x 48 x 48"]
    voxels = [row for row in rows if row.what == "its voxels a second"]
    for row, step, batch in zip(voxels, steps, (2 * 16 * 32 * 32, 2 * 48 * 48), strict=True):
        assert float(row.ours.split()[0]) == pytest.approx(batch / step.ratio / 1e6, rel=0.01)
    assert [row.what for row in rows if "epochs of" in row.what] == [
        "32 epochs of 2000 steps",
        "15 epochs of 1000 steps",
    ]
    assert not [row for row in rows if row.goal], "goals are for the real size on a GPU"


def test_training_evaluation_and_inference_are_scored():
    sizes = training.Sizes(size=48, slices=8, n_train=2, n_test=1, options=SHORT)
    rows = training.train_and_score("liver_tumor_2d", "cpu", sizes)
    assert rows[0].what == "liver_tumor_2d, quickstart.json, 4 steps: liver_dice on held-out phantoms"
    assert 0 <= rows[0].ratio <= 1
    assert [(row.ours, row.met) for row in rows if row.what == "volumes predicted"] == [("1", True)]


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(RuntimeError, match=rf"^training ended with 1: error: {tmp_path}/none: found no such"):
        training.run_bundle("liver_tumor_2d", "training", ["train"], dataset_dir=tmp_path / "none")
