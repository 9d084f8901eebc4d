"""TorchScript and ONNX made by MONAI's own commands answer as the network they were made of."""

import json
import runpy
import sys
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.data.predictions import RECORD
from custom.errors import find_data_error

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# The real encoder, which not every exporter can do with open sizes, and sizes beside the exported one:
# batch, rows, columns (and planes) differ from one another and from the metadata's smallest. With two positions where
# a network is coarsest, instance normalisation would magnify rounding errors.
SMALL = {
    "vesuvius_surface_3d": {"network_def#init_filters": 8},
    "liver_tumor_2d": {"network_def#decoder_channels": [32, 16, 16, 8, 8]},
}
SHAPES = {
    "vesuvius_surface_3d": [(1, 1, 32, 48, 32), (3, 1, 32, 48, 64), (2, 1, 64, 48, 32)],
    "liver_tumor_2d": [(1, 5, 32, 32), (3, 5, 64, 96), (2, 5, 160, 32)],
}
ODD = {"vesuvius_surface_3d": (1, 1, 20, 18, 16), "liver_tumor_2d": (2, 5, 70, 97)}
INFERENCE = {
    "vesuvius_surface_3d": {"patch_size": [16, 32, 32]},
    "liver_tumor_2d": {"clean_liver": False},
}


def eager(root, name):
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / "inference.json"))
    parser.update(SMALL[name])
    return parser.get_parsed_content("network_def")


def trained(network, shape):
    """Weights that tell voxels apart: a fresh network in evaluation says nearly the same of every one."""
    network.train()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(30):
            network(torch.rand(shape))
    return network.eval()


def command(patch, root, *words, **options):
    """``python -m monai.bundle WORDS --KEY=VALUE ...`` in a folder, without the seconds that a new process takes."""
    with patch.context() as patched:
        patched.chdir(root)
        patched.setattr(sys, "argv", ["monai.bundle", *words, *(f"--{key}={value}" for key, value in options.items())])
        runpy.run_module("monai.bundle", run_name="__main__")


@pytest.fixture(scope="module")
def exported(make_folder, request):
    """Each bundle in a folder of its own, with a small network's weights, TorchScript and ONNX in models/."""
    done = {}

    def export(name):
        if name not in done:
            root = make_folder(name)
            source = request.config.rootpath / "bundles" / name
            for part in ("configs", "custom"):
                (root / part).symlink_to((source / part).resolve())
            (root / "models").mkdir()
            network = trained(eager(root, name), SHAPES[name][1])
            torch.save(network.state_dict(), root / "models" / "model.pt")
            # as docs/consumers.md has them
            command(pytest.MonkeyPatch, root, "ckpt_export", "--config_file=configs/inference.json", **SMALL[name])
            command(pytest.MonkeyPatch, root, "onnx_export", "--args_file=configs/export_onnx.json", **SMALL[name])
            done[name] = root, network
        return done[name]

    return export


@pytest.fixture(params=sorted(SMALL))
def bundle(request, exported):
    """Name, folder and eager network."""
    return request.param, *exported(request.param)


def session(root):
    path = root / "models" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_torchscript_answers_as_eager_at_every_size(bundle):
    name, root, network = bundle
    script = torch.jit.load(root / "models" / "model.ts")
    assert not script.training
    for shape in SHAPES[name]:
        x = torch.rand(shape)
        with torch.no_grad():
            expected = network(x)
            assert expected.std() > 0.05
            torch.testing.assert_close(script(x), expected, rtol=0, atol=1e-4)


def test_torchscript_carries_configuration_and_metadata(bundle):
    """What MONAI Deploy reads from the file."""
    _, root, _ = bundle
    files = {"inference.json": "", "metadata.json": ""}
    torch.jit.load(root / "models" / "model.ts", _extra_files=files)
    for file, content in files.items():
        expected = json.loads((root / "configs" / file).read_text())
        # MONAI 1.6.1 puts the optional packages into the place of the required ones
        expected = {key: value for key, value in expected.items() if not key.endswith("_packages_version")}
        assert json.loads(content).items() >= expected.items()


def test_onnx_answers_as_eager_at_every_size(bundle):
    name, root, network = bundle
    runtime = session(root)
    for shape in SHAPES[name]:
        x = torch.rand(shape)
        (found,) = runtime.run(["pred"], {"image": x.numpy()})
        with torch.no_grad():
            expected = network(x)
        # Logits are up to 60: float32 rounds a large part of 1e-4 away from what float64 gives, in either runtime.
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_onnx_leaves_batch_and_sizes_open_and_is_one_file(bundle):
    name, root, _ = bundle
    (image,), (pred,) = session(root).get_inputs(), session(root).get_outputs()
    for tensor, channels in ((image, SHAPES[name][0][1]), (pred, 2)):
        batch, found, *sizes = tensor.shape
        assert found == channels
        assert all(isinstance(size, str) for size in (batch, *sizes)), tensor.shape
    assert len(set(image.shape)) == len(SHAPES[name][0])  # no two axes tied together
    assert sorted(path.name for path in (root / "models").iterdir()) == ["model.onnx", "model.pt", "model.ts"]


def test_what_other_sizes_do_is_as_documented(exported):
    """U-Net++ pads inside, as TorchScript does and ONNX does not; the surface network refuses other sizes."""
    name = "liver_tumor_2d"
    root, network = exported(name)
    x = torch.rand(ODD[name])
    with torch.no_grad():
        found = torch.jit.load(root / "models" / "model.ts")(x)
        torch.testing.assert_close(found, network(x), rtol=0, atol=1e-4)
    with pytest.raises(Exception, match="Concat"):
        session(root).run(None, {"image": x.numpy()})

    name = "vesuvius_surface_3d"
    root, network = exported(name)
    x = torch.rand(ODD[name])
    with pytest.raises(ValueError, match=r"multiples of \[16, 16, 16\]"):
        network(x)
    with pytest.raises(torch.jit.Error, match="divisible by"):
        torch.jit.load(root / "models" / "model.ts")(x)
    with pytest.raises(Exception, match="Add"):
        session(root).run(None, {"image": x.numpy()})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_inference_through_onnx_runtime_predicts_the_same(name, exported, phantoms, tmp_path, monkeypatch):
    root, _ = exported(name)
    monkeypatch.chdir(root)
    predictions = {}
    for kind, configs, small in (
        ("eager", ["inference", "probabilities"], SMALL[name]),
        ("onnx", ["inference", "probabilities", "inference_onnx"], {"threads": 1}),
    ):
        flow = ConfigWorkflow(
            [f"configs/{config}.json" for config in configs],
            workflow_type="infer",
            dataset_dir=str(phantoms[name].images),
            output_dir=str(tmp_path / kind),
            **INFERENCE[name],
            **{"inferer#precision": "float32"},
            **small,
        )
        flow.initialize()
        assert flow.check_properties() == []
        flow.run()
        files = [path for path in (tmp_path / kind).iterdir() if path.name != RECORD]
        predictions[kind] = {path.name: read(path).astype(int) for path in files}
    assert predictions["eager"].keys() == predictions["onnx"].keys() != set()
    for file, expected in predictions["eager"].items():
        assert len(np.unique(expected)) > 1, file
        assert np.abs(predictions["onnx"][file] - expected).max() <= 1, file  # one step of 255, by rounding


def read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return itk.array_from_image(itk.imread(str(path)))
    return np.asarray(nibabel.load(path).dataobj)


def test_without_the_onnx_file_its_name_is_said(phantoms, tmp_path):
    bundle = phantoms["liver_tumor_2d"]
    flow = ConfigWorkflow(
        bundle.configs("inference", "inference_onnx"),
        workflow_type="infer",
        bundle_root=str(tmp_path),
        dataset_dir=str(bundle.images),
    )
    flow.initialize()
    with pytest.raises(Exception) as stop:  # MONAI's parser wraps it; the command line unwraps it again
        flow.run()
    assert str(find_data_error(stop.value)).startswith(f"{tmp_path}/models/model.onnx: found no such file")
