"""Both bundles through the command line, as a user runs them: train, evaluate, infer."""

import csv

import itk
import nibabel
import numpy as np
import pytest
import torch

from custom.data.predictions import RECORD

pytestmark = pytest.mark.slow  # the fixtures train and evaluate

TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]


@pytest.fixture(scope="module")
def trained(phantoms, make_folder):
    """Train each bundle once, from its own folder with ``training``."""
    done = {}

    def train(bundle):
        if bundle.name not in done:
            out = make_folder(bundle.name)
            folders = {"model_dir": out / "models", "cache_dir": out / "cache", "output_dir": out / "training"}
            process = bundle.run(
                "training", ["configs/train.json", "configs/quickstart.json"], **bundle.options | folders
            )
            assert process.returncode == 0, process.stderr
            done[bundle.name] = out
        return done[bundle.name]

    return train


def rows(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_training_leaves_weights_history_and_pictures(bundle, trained):
    out = trained(bundle)
    state = torch.load(out / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    history = rows(out / "training" / "metrics.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert all(np.isfinite(float(row["train_loss"])) for row in history)
    assert (out / "training" / "curves.png").exists()
    assert len(list((out / "training" / "panels").glob("*.png"))) == 1
    assert list((out / "training").glob("events.out.tfevents*"))


@pytest.fixture(scope="module")
def evaluated(trained, make_folder):
    """Evaluate each bundle once, on all three volumes, in one process."""
    done = {}

    def evaluate(bundle):
        if bundle.name not in done:
            folder = make_folder(f"{bundle.name}_evaluated")
            process = bundle.run(
                "evaluating",
                ["configs/train.json", "configs/evaluate.json"],
                **evaluation_options(bundle, trained(bundle), folder),
            )
            assert process.returncode == 0, process.stderr
            done[bundle.name] = folder
        return done[bundle.name]

    return evaluate


def evaluation_options(bundle, trained, output):
    folders = {"model_dir": trained / "models", "cache_dir": trained / "cache", "output_dir": output}
    return bundle.options | folders | {"subset": "all"}


def test_evaluation_scores_every_volume(bundle, evaluated):
    assert len(rows(evaluated(bundle) / "cases.csv")) == 3


def test_evaluation_of_several_weights_files(bundle, trained, evaluated, tmp_path):
    """Twice the same network scores as it does alone."""
    options = evaluation_options(bundle, trained(bundle), tmp_path)
    options["checkpoint"] = [str(options["model_dir"] / "model.pt")] * 2
    process = bundle.run("evaluating", ["configs/train.json", "configs/evaluate.json"], **options)
    assert process.returncode == 0, process.stderr
    twice, once = rows(tmp_path / "cases.csv"), rows(evaluated(bundle) / "cases.csv")
    assert [row["case"] for row in twice] == [row["case"] for row in once]
    score = "liver_dice" if bundle.name == "liver_tumor_2d" else "surface_dice"
    assert [float(row[score]) for row in twice] == pytest.approx([float(row[score]) for row in once], abs=1e-3)


def test_inference_keeps_name_shape_and_geometry(bundle, trained, tmp_path):
    out = trained(bundle)
    process = bundle.run(
        "run",
        ["configs/inference.json"],
        **bundle.inference_options
        | {"dataset_dir": bundle.images, "model_dir": out / "models", "output_dir": tmp_path},
    )
    assert process.returncode == 0, process.stderr
    inputs = sorted(path for path in bundle.images.iterdir() if not path.name.startswith("segmentation"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != RECORD) == [path.name for path in inputs]
    for path in inputs:
        if path.suffix == ".tif":
            source, found = (itk.array_from_image(itk.imread(str(p))) for p in (path, tmp_path / path.name))
        else:
            source, found = (nibabel.load(p) for p in (path, tmp_path / path.name))
            np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)
            source, found = (np.asarray(image.dataobj) for image in (source, found))
        assert found.shape == source.shape
        assert found.dtype == np.uint8
        assert set(np.unique(found)) <= {0, 1, 2}


def test_from_the_repositorys_root_with_plain_run(bundle, trained, tmp_path, request):
    out = trained(bundle)
    process = bundle.run(
        "run",
        bundle.configs("train", "quickstart"),
        cwd=request.config.rootpath,
        bundle_root=bundle.root,
        **bundle.options
        | {"epochs": 1, "model_dir": tmp_path / "m", "cache_dir": out / "cache", "output_dir": tmp_path / "o"},
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "m" / "model.pt").exists() and (tmp_path / "o" / "metrics.csv").exists()


def test_without_weights_one_line_says_so(bundle, tmp_path):
    process = bundle.run(
        "run",
        ["configs/inference.json"],
        **bundle.inference_options | {"dataset_dir": bundle.images, "model_dir": tmp_path},
    )
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}/model.pt: found no such file")


def test_two_processes_train_together(phantoms, trained, tmp_path):
    bundle = phantoms["liver_tumor_2d"]
    options = bundle.options | {
        "epochs": 1,
        "model_dir": tmp_path / "models",
        "cache_dir": trained(bundle) / "cache",
        "output_dir": tmp_path / "out",
    }
    process = bundle.run(
        "training",
        ["configs/train.json", "configs/quickstart.json", "configs/multi_gpu_train.json"],
        runner=TWO_PROCESSES,
        **options,
    )
    assert process.returncode == 0, process.stderr
    assert [row["step"] for row in rows(tmp_path / "out" / "metrics.csv")] == ["2"]
    assert len(rows(tmp_path / "out" / "cases.csv")) == 1  # validated once, though by two processes
    assert (tmp_path / "models" / "model.pt").exists()


def test_two_processes_evaluate_as_one_does(bundle, trained, evaluated, tmp_path):
    """Of three volumes one is predicted by both, and counts once."""
    process = bundle.run(
        "evaluating",
        ["configs/train.json", "configs/evaluate.json", "configs/multi_gpu_evaluate.json"],
        runner=TWO_PROCESSES,
        **evaluation_options(bundle, trained(bundle), tmp_path),
    )
    assert process.returncode == 0, process.stderr
    one, two = ((folder / "cases.csv").read_text() for folder in (evaluated(bundle), tmp_path))
    assert len(two.splitlines()) == 4 and two == one
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in evaluated(bundle).iterdir()}
