"""Models that nnU-Net trained, imported: predictions equal nnU-Net's own, and the rest is refused by name.

``nnunet/`` was made by ``python scripts/compare_nnunet.py --python nnunet/bin/python --work compared --size 32 --steps
40 --fixture tests/scripts/nnunet`` with nnunetv2 2.8.1: tiny networks trained on phantoms, an image, and nnU-Net's
prediction of it (masks, and the probabilities of every second voxel times 65535).
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.import_nnunet import import_nnunet
from scripts.nnunet import own
from scripts.nnunet.cases import CASES
from scripts.nnunet.model import read_checkpoint, read_model
from scripts.nnunet.settings import settings_of

from custom.errors import DataError
from custom.networks import PlainConvUNet

FIXTURES = Path(__file__).with_name("nnunet")
NAMES = sorted(path.name for path in FIXTURES.iterdir())
PLAIN = "scroll_plain"


def model_of(name):
    return next(path for path in (FIXTURES / name).iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_predictions_equal_nnunets(name, tmp_path):
    bundle, imported = CASES[name].bundle, tmp_path / "imported"
    import_nnunet(str(model_of(name)), bundle, str(imported))
    (image,) = [str(path) for path in (FIXTURES / name).iterdir() if path.suffix in (".tif", ".gz")]
    own.predict(bundle, str(imported), [image], str(tmp_path))
    found, expected = np.load(tmp_path / "0.npz"), np.load(FIXTURES / name / "expected.npz")
    probabilities = expected["probabilities"] / 65535
    given = found["probabilities"][:, ::2, ::2, ::2]
    assert probabilities.std() > 0.01
    np.testing.assert_allclose(given, probabilities[-len(given) :], atol=1e-5 + 0.5 / 65535)
    assert (found["mask"][0] != expected["mask"]).mean() < 1e-4


@pytest.fixture
def model(tmp_path):
    """A copy of a model that a test may change."""
    return Path(shutil.copytree(model_of(PLAIN), tmp_path / "model"))


def change(path, **entries):
    content = json.loads(path.read_text())
    content.update(entries)
    path.write_text(json.dumps(content))


def change_configuration(model, **entries):
    plans = json.loads((model / "plans.json").read_text())
    (name,) = plans["configurations"]
    plans["configurations"][name].update(entries)
    (model / "plans.json").write_text(json.dumps(plans))


def imported(model, tmp_path, bundle="vesuvius_surface_3d", **options):
    return import_nnunet(str(model), bundle, str(tmp_path / "out"), **options)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"previous_stage": "3d_lowres"}, "previous_stage: 3d_lowres, expected a model that is no cascade"),
        ({"normalization_schemes": ["PercentileNorm"]}, "PercentileNorm"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resampling_fn_data: resample_torch_fornnunet"),
        ({"resampling_fn_data_kwargs": {"order_z": 1}}, "order_z: 1"),
        ({"preprocessor_name": "Mine"}, "preprocessor_name: Mine"),
        ({"new_field": 1}, "configuration: new_field"),
        ({"spacing": [2.0, 1.0, 1.0]}, r"spacing: \[2.0, 1.0, 1.0\]"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused_by_name(model, tmp_path, entries, message):
    change_configuration(model, **entries)
    with pytest.raises(DataError, match=message):
        imported(model, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("plans.json", {"image_reader_writer": "NaturalImage2DIO"}, "image_reader_writer: NaturalImage2DIO"),
        ("plans.json", {"label_manager": "Mine"}, "label_manager: Mine"),
        ("plans.json", {"something": 1}, "plans: something"),
        ("dataset.json", {"channel_names": {"0": "CT", "1": "PET"}}, "channel_names: CT, PET"),
        ("dataset.json", {"labels": {"background": 0, "recto": 1, "verso": 2}}, "labels: 3 channels"),
        ("dataset.json", {"labels": {"background": 0, "surface": 3}}, "labels"),
        ("dataset.json", {"labels": {"background": 0, "a": [1, 2], "b": 2}}, "regions_class_order: None"),
    ],
)
def test_plans_and_dataset_are_honoured_or_refused(model, tmp_path, file, entries, message):
    change(model / file, **entries)
    with pytest.raises(DataError, match=message):
        imported(model, tmp_path)


def test_plans_before_nnunet_2_4_are_understood(model):
    plans = json.loads((model / "plans.json").read_text())
    (plan,) = plans["configurations"].values()
    arguments = plan.pop("architecture")["arch_kwargs"]
    plan |= {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "unet_max_num_features": 6}
    plan |= {"n_conv_per_stage_encoder": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "num_pool_per_axis": [2, 2, 2]}
    plan |= {"conv_kernel_sizes": arguments["kernel_sizes"], "pool_op_kernel_sizes": arguments["strides"]}
    (model / "plans.json").write_text(json.dumps(plans))
    found = settings_of(read_model(model))
    assert found.architecture["features_per_stage"] == [4, 6, 6]
    network = PlainConvUNet(in_channels=1, out_channels=2, architecture=found.architecture)
    expected = read_model(model).weights[0].keys()
    assert network.state_dict().keys() == expected


def test_a_missing_entry_is_named(model, tmp_path):
    plans = json.loads((model / "plans.json").read_text())
    del next(iter(plans["configurations"].values()))["spacing"]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(DataError, match="no spacing"):
        imported(model, tmp_path)
    (model / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset.json: no labels"):
        imported(model, tmp_path)


def rewrite(model, **entries):
    file = next(model.glob("fold_*/*.pth"))
    torch.save(read_checkpoint(file) | entries, file)


def test_an_unknown_trainer_needs_consent(model, tmp_path):
    rewrite(model, trainer_name="nnUNetTrainerBN")
    with pytest.raises(DataError, match="trainer: nnUNetTrainerBN"):
        imported(model, tmp_path)
    assert imported(model, tmp_path, trust_trainer=True).is_dir()


@pytest.mark.parametrize(
    "name", ["nnUNetTrainer", "nnUNetTrainer_4000epochs", "nnUNetTrainerMedialSurfaceRecall", "nnUNetTrainerDA5"]
)
def test_known_trainers(model, name):
    rewrite(model, trainer_name=name)
    assert settings_of(read_model(model)).network == "PlainConvUNet"


def test_weights_of_another_network_are_named(model, tmp_path):
    weights = read_model(model).weights[0]
    weights["decoder.seg_layers.0.weight"] = torch.zeros(3, 6, 1, 1, 1)
    rewrite(model, network_weights=weights)
    with pytest.raises(DataError, match=r"misshapen keys \(decoder.seg_layers.0.weight\)"):
        imported(model, tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_checkpoint_is_not_executed(model, tmp_path, capsys):
    rewrite(model)
    file = next(model.glob("fold_*/*.pth"))
    torch.save(read_checkpoint(file) | {"evil": Evil()}, file)
    with pytest.raises(DataError, match="an unreadable file"):
        imported(model, tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_numbers_of_numpy_are_read_and_nothing_stays_allowed(model):
    before = torch.serialization.get_safe_globals()
    rewrite(model, _best_ema=np.float64(0.5), logging={"losses": [np.float32(1), np.int64(2)]})
    assert read_checkpoint(next(model.glob("fold_*/*.pth")))["_best_ema"] == 0.5
    assert torch.serialization.get_safe_globals() == before


def test_zip_files_and_folders_above_give_the_same(model, tmp_path):
    expected = read_model(model)
    nested = tmp_path / "results" / "Dataset001_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(model, nested)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for path in sorted(nested.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "results"))
    for place in (tmp_path / "results", tmp_path / "model.zip"):
        found = read_model(place)
        assert found.plans == expected.plans
        assert all(torch.equal(found.weights[0][key], value) for key, value in expected.weights[0].items())


def test_the_best_checkpoint_is_taken_if_there_is_no_final_one(model):
    file = next(model.glob("fold_*/*.pth"))
    file.rename(file.with_name("checkpoint_best.pth"))
    assert len(read_model(model).weights) == 1
    with pytest.raises(DataError, match=r"no checkpoint_final.pth of fold 0"):
        read_model(model, checkpoint="checkpoint_final.pth")


def test_folds_can_be_chosen(tmp_path):
    model = model_of("scroll_residual_2_folds")
    assert len(read_model(model).weights) == 2
    assert len(read_model(model, ["1"]).weights) == 1
    with pytest.raises(DataError, match=r"of fold 3, expected one of fold 0, 1"):
        read_model(model, ["3"])


def test_what_the_bundles_can_train_gets_an_override_for_it(model, tmp_path):
    training = json.loads((imported(model, tmp_path) / "nnunet_training.json").read_text())
    assert training["initial_weights"] == str((tmp_path / "out" / "model.pt").resolve())
    change_configuration(model, normalization_schemes=["ZScoreNormalization"])
    assert not (imported(model, tmp_path) / "nnunet_training.json").exists()


def test_slices_of_exclusive_labels_are_trained_with_a_softmax(tmp_path):
    model = Path(shutil.copytree(model_of("liver_2d"), tmp_path / "model"))
    change(model / "plans.json", transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    folder = imported(model, tmp_path, "liver_tumor_2d", folds="0")
    training = json.loads((folder / "nnunet_training.json").read_text())
    assert json.loads((folder / "nnunet.json").read_text())["regions"] == [[0], [1], [2]]
    assert training["loss"]["softmax"]
    assert training["slice_size"] == [32, 40]


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="nothing there"):
        read_model(tmp_path / "model")
    with pytest.raises(DataError, match=r"no plans.json"):
        read_model(tmp_path)
