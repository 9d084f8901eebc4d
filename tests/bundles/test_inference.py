"""Predicting folders, lists and single files, some of them bad, again and again, with one set of weights or more."""

import json
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.data import read_volume
from custom.data.predictions import RECORD
from custom.errors import DataError, find_data_error

TINY = {
    "vesuvius_surface_3d": {"network_def#init_filters": 8, "patch_size": [16, 32, 32]},
    "liver_tumor_2d": {"network_def#backbone": "resnet18", "network_def#decoder_channels": [8, 8, 8, 8, 8]},
}
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
EXTENSION = {"vesuvius_surface_3d": ".tif", "liver_tumor_2d": ".nii.gz"}


@pytest.fixture
def weights(bundle, tmp_path):
    """Weights of two networks that were not trained, in both of which there is something to find."""
    paths = []
    for seed in (1, 2):
        parser = ConfigParser(ConfigParser.load_config_file(bundle.configs("inference")[0]))
        for key, value in TINY[bundle.name].items():
            parser[key] = value
        torch.manual_seed(seed)
        network = parser.get_parsed_content("network_def")
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
        paths.append(str(tmp_path / f"{seed}.pt"))
        torch.save(network.state_dict(), paths[-1])
    return paths


@pytest.fixture
def images(bundle, tmp_path):
    """A folder of three images, the second of which is cut off."""
    (source,) = (path for path in bundle.images.iterdir() if not path.name.startswith("segmentation"))
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        shutil.copy(source, folder / f"{name}{EXTENSION[bundle.name]}")
    bad = folder / f"b{EXTENSION[bundle.name]}"
    bad.write_bytes(bad.read_bytes()[:2000])
    return folder


@pytest.fixture
def infer(bundle, tmp_path):
    def run(*names, **options):
        defaults = TINY[bundle.name] | {"output_dir": str(tmp_path / "out"), "bundle_root": str(bundle.root)}
        flow = ConfigWorkflow(
            bundle.configs("inference", *names),
            workflow_type="infer",
            run_id="inferring",
            logging_file=False,
            **defaults | options,
        )
        flow.initialize()
        flow.run()

    return run


def predictions(folder):
    return sorted(path for path in folder.iterdir() if path.name != RECORD)


def arrays(folder):
    return {path.name: read_volume(path).array for path in predictions(folder)}


@pytest.mark.slow
def test_a_bad_file_stops_no_other_and_a_second_run_does_what_is_missing(bundle, weights, images, infer, tmp_path):
    ext = EXTENSION[bundle.name]
    options = {"dataset_dir": str(images), "checkpoint": weights[0]}
    for _ in range(2):
        with pytest.raises(Exception) as caught:
            infer(**options)
        error = str(find_data_error(caught.value))
        assert error.startswith(f"3 cases: found 1 that failed ({images}/b{ext}: found ")
        assert [path.name for path in predictions(tmp_path / "out")] == [f"a{ext}", f"c{ext}"]
        assert "\n" not in error

    before = {path.name: path.stat().st_mtime_ns for path in predictions(tmp_path / "out")}
    shutil.copy(images / f"a{ext}", images / f"b{ext}")
    infer(**options)
    found = arrays(tmp_path / "out")
    assert list(found) == [f"a{ext}", f"b{ext}", f"c{ext}"]
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in before.items())
    assert np.array_equal(found[f"b{ext}"], found[f"a{ext}"])

    infer(**options | {"overwrite": True})
    assert all((tmp_path / "out" / name).stat().st_mtime_ns > time for name, time in before.items())


@pytest.mark.slow
def test_on_the_command_line_the_exit_code_is_1(phantoms, tmp_path):
    bundle = phantoms["vesuvius_surface_3d"]
    parser = ConfigParser(ConfigParser.load_config_file(bundle.configs("inference")[0]))
    parser["network_def#init_filters"] = 8
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    (good,) = bundle.images.iterdir()
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    (tmp_path / "list.json").write_text(json.dumps(["bad.tif", str(good)]))
    options = TINY[bundle.name] | {"dataset_dir": tmp_path / "list.json", "output_dir": tmp_path / "out"}
    process = bundle.run("run", ["configs/inference.json"], checkpoint=tmp_path / "model.pt", **options)
    assert process.returncode == 1
    assert (
        process.stderr.strip()
        .splitlines()[-1]
        .startswith(f"error: 2 cases: found 1 that failed ({tmp_path}/bad.tif: found")
    )
    assert [path.name for path in predictions(tmp_path / "out")] == [good.name]


@pytest.mark.slow
def test_two_processes_share_the_cases(phantoms, tmp_path):
    """Three cases, one of them bad, and then one alone; each is written once, as one process writes it."""
    bundle = phantoms["liver_tumor_2d"]
    parser = ConfigParser(ConfigParser.load_config_file(bundle.configs("inference")[0]))
    parser.update(TINY[bundle.name])
    torch.manual_seed(1)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    (source,) = (path for path in bundle.images.iterdir() if not path.name.startswith("segmentation"))
    (tmp_path / "images").mkdir()
    for name in "abc":
        shutil.copy(source, tmp_path / "images" / f"{name}.nii.gz")
    (tmp_path / "images" / "b.nii.gz").write_bytes(source.read_bytes()[:2000])
    options = TINY[bundle.name] | {"dataset_dir": tmp_path / "images", "checkpoint": tmp_path / "model.pt"}
    two = {"configs": ["configs/inference.json", "configs/multi_gpu_inference.json"], "runner": TWO_PROCESSES}

    one = bundle.run("inferring", ["configs/inference.json"], output_dir=tmp_path / "one", **options)
    both = bundle.run("inferring", **two, output_dir=tmp_path / "two", **options)
    assert one.returncode == both.returncode == 1
    message = f"error: 3 cases: found 1 that failed ({tmp_path}/images/b.nii.gz: found "
    assert one.stderr.count(message) == both.stderr.count(message) == 1, both.stderr
    expected, found = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert list(found) == list(expected) == ["a.nii.gz", "c.nii.gz"]
    assert all(np.array_equal(found[name], expected[name]) for name in found)

    options["dataset_dir"] = tmp_path / "images" / "a.nii.gz"
    again = bundle.run("inferring", **two, output_dir=tmp_path / "three", **options)
    assert again.returncode == 0, again.stderr
    assert list(arrays(tmp_path / "three")) == ["a.nii.gz"]


def test_another_process_writes_what_this_one_would(bundle, weights, images, infer, tmp_path):
    """A prediction that cannot be written is a case that failed; the others are there, and recorded."""
    ext = EXTENSION[bundle.name]
    (images / f"b{ext}").unlink()
    long = "b" * (251 - len(ext))  # the temporary file's name is longer than a file's name may be
    shutil.copy(images / f"a{ext}", images / f"{long}{ext}")
    found = []
    for workers in (0, 1):
        out = tmp_path / str(workers)
        options = {"output_dir": str(out), "evaluator#iteration_update#workers": workers}
        with pytest.raises(Exception) as caught:
            infer(dataset_dir=str(images), checkpoint=weights[0], **options)
        assert str(find_data_error(caught.value)).startswith(f"3 cases: found 1 that failed ({long}: ")
        record = json.loads((out / RECORD).read_text())["predictions"]
        assert [name for name, entry in record.items() if "sha256" in entry] == [f"a{ext}", f"c{ext}"]
        found.append(arrays(out))
    assert list(found[0]) == list(found[1]) == [f"a{ext}", f"c{ext}"]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("ext", [".tif", ".nii.gz", ".mha"])
def test_formats_and_kinds_of_input(bundle, weights, images, infer, tmp_path, ext):
    """A list and a single file; the format that was asked for, with the image's geometry where it has any."""
    source = images / f"a{EXTENSION[bundle.name]}"
    image = read_volume(source)
    for dataset_dir in ([str(source)], str(source)):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        infer(dataset_dir=dataset_dir, checkpoint=weights[0], output_ext=ext)
        (path,) = predictions(tmp_path / "out")
        assert path.name == f"a{ext}"
        found = read_volume(path)
        assert (found.array.shape, found.array.dtype) == (image.array.shape, np.uint8)
        assert set(np.unique(found.array)) <= {0, 1, 2}
        if ext != ".tif":
            np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members(bundle, weights, images, infer, tmp_path):
    """As probabilities, in 255 steps."""
    options = {"dataset_dir": str(images / f"a{EXTENSION[bundle.name]}"), "inferer#precision": "float32"}
    found = []
    for number, checkpoint in enumerate([*weights, weights]):
        out = tmp_path / f"out{number}"
        infer("probabilities", checkpoint=checkpoint, output_dir=str(out), **options)
        found.append(arrays(out))
    names = ["a.tif"] if bundle.name.startswith("vesuvius") else ["a_liver.nii.gz", "a_tumor.nii.gz"]
    assert list(found[2]) == names
    for name in names:
        first, second, mean = (arrays[name].astype(float) for arrays in found)
        assert np.abs(first - second).max() > 20
        assert np.abs((first + second) / 2 - mean).max() <= 1


def test_probabilities_and_masks_agree(bundle, weights, images, infer, tmp_path):
    options = {"dataset_dir": str(images / f"a{EXTENSION[bundle.name]}"), "checkpoint": weights[0]}
    infer(**options | ({"clean_liver": False} if bundle.name == "liver_tumor_2d" else {}))
    infer("probabilities", **options | {"output_dir": str(tmp_path / "p")})
    (mask,) = arrays(tmp_path / "out").values()
    probability = np.maximum.reduce(list(arrays(tmp_path / "p").values()))
    assert probability.std() > 5  # of 255: not constant
    clear = np.abs(probability.astype(int) - 127.5) > 1
    assert np.array_equal((mask > 0)[clear], (probability > 127)[clear])


def test_predictions_never_replace_images(bundle, weights, images, infer):
    with pytest.raises(Exception) as caught:
        infer(dataset_dir=str(images), checkpoint=weights[0], output_dir=str(images))
    assert isinstance(find_data_error(caught.value), DataError)
    assert "expected another output_dir" in str(find_data_error(caught.value))
