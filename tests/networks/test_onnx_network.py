"""A network in an ONNX file against what its nodes say, and the ways a file can be wrong."""

import sys

import pytest
import torch

from custom.errors import DataError
from custom.inferers import SliceVolumeInferer, SlidingWindow
from custom.networks import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FLOAT = onnx.TensorProto.FLOAT


def write_network(path, *, rank=4, element=FLOAT, inputs=("image",)):
    """``pred = 2 * image + 1`` of any shape with one channel."""
    shape = ["batch", 1, *(f"size_{axis}" for axis in range(rank - 2))]
    constants = [onnx.helper.make_tensor(name, element, [], [value]) for name, value in (("two", 2.0), ("one", 1.0))]
    nodes = [
        onnx.helper.make_node("Mul", [inputs[0], "two"], ["doubled"]),
        onnx.helper.make_node("Add", ["doubled", inputs[1] if len(inputs) > 1 else "one"], ["pred"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, element, shape) for name in (*inputs, "pred")]
    graph = onnx.helper.make_graph(nodes, "network", values[:-1], values[-1:], constants)
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return str(path)


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (3, 1, 2, 9), (2, 1, 4, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_computes_what_the_file_says_in_float32(tmp_path, shape, dtype):
    network = OnnxNetwork(path=write_network(tmp_path / "model.onnx", rank=len(shape)))
    x = (torch.rand(shape) * 100).to(dtype)
    found = network(x)
    assert found.dtype == torch.float32 and found.device == x.device
    torch.testing.assert_close(found, 2 * x.float() + 1)


def test_takes_tensors_however_they_lie_in_memory(tmp_path):
    network = OnnxNetwork(path=write_network(tmp_path / "model.onnx"), threads=1).to(memory_format=torch.channels_last)
    x = torch.rand(2, 1, 6, 8)
    for view in (x.to(memory_format=torch.channels_last), x.flip(-1), x.transpose(2, 3), x.requires_grad_()):
        torch.testing.assert_close(network(view), 2 * view.detach() + 1)


def test_inferers_use_it_as_they_use_any_network(tmp_path):
    def plain(x):
        return 2 * x + 1

    volume = torch.rand(1, 1, 10, 20, 18)
    windows = SlidingWindow(
        roi_size=(4, 8, 8), overlap=0.25, activation="sigmoid", tta=["depth", "vertical", "horizontal"]
    )
    network = OnnxNetwork(path=write_network(tmp_path / "windows.onnx", rank=5))
    torch.testing.assert_close(windows(volume, network), windows(volume, plain))
    slices = SliceVolumeInferer(sw_batch_size=4, divisor=16, tta=["horizontal"])
    network = OnnxNetwork(path=write_network(tmp_path / "slices.onnx"))
    torch.testing.assert_close(slices(volume, network), slices(volume, plain))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.onnx: found no such file, expected a network exported"):
        OnnxNetwork(path=str(tmp_path / "nowhere.onnx"))


@pytest.mark.parametrize("content", [b"", b"no network at all", bytes(range(256))])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model.onnx: found an unreadable file"):
        OnnxNetwork(path=str(path))


def test_half_a_file_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    write_network(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"model.onnx: found"):
        OnnxNetwork(path=str(path))


def test_a_network_of_two_images_is_refused(tmp_path):
    path = write_network(tmp_path / "model.onnx", inputs=("image", "other"))
    with pytest.raises(DataError, match=r"found inputs tensor\(float\), tensor\(float\), expected one tensor\(float\)"):
        OnnxNetwork(path=path)


def test_a_network_of_doubles_is_refused(tmp_path):
    path = write_network(tmp_path / "model.onnx", element=onnx.TensorProto.DOUBLE)
    with pytest.raises(DataError, match=r"found inputs tensor\(double\)"):
        OnnxNetwork(path=path)


@pytest.mark.parametrize("providers", [[], ["CPUExecutionProvider", "NoSuchProvider"]])
def test_unknown_providers_are_refused_with_those_there_are(tmp_path, providers):
    path = write_network(tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"providers (of none|NoSuchProvider), expected some of .*CPUExecutionProvider"):
        OnnxNetwork(path=path, providers=providers)


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DataError, match=r"no onnxruntime to run it, expected it installed \(pip install onnxruntime\)"):
        OnnxNetwork(path=write_network(tmp_path / "model.onnx"))
