"""nnU-Net's architectures: its own parameter names, shapes and outputs are in ``nnunet_parameters.json``.

The file was made by ``scripts/compare_nnunet.py parameters`` with nnunetv2 2.8.1.
"""

import json
from pathlib import Path

import pytest
import torch
from monai.losses import DeepSupervisionLoss

from custom.errors import DataError
from custom.losses import MaskedDiceCELoss
from custom.networks import PlainConvUNet, ResidualEncoderUNet
from custom.networks.nnunet import without_duplicates

TABLE = json.loads(Path(__file__).with_name("nnunet_parameters.json").read_text())
CLASSES = {cls.__name__: cls for cls in (PlainConvUNet, ResidualEncoderUNet)}


@pytest.fixture(params=TABLE, ids=lambda entry: entry["class"])
def entry(request):
    return request.param


def build(entry, **options):
    return CLASSES[entry["class"]](in_channels=1, out_channels=2, architecture=entry["architecture"], **options)


def theirs(entry):
    """The state dict of nnU-Net's network of this architecture, with the weights of which the output is known."""
    state = {}
    for index, key in enumerate(entry["order"]):
        shape = entry["parameters"][key]
        count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        state[key] = (torch.cos(count * 1.7 + index) * 0.3).reshape(shape).float()
    for key in entry["parameters"]:
        name = key.replace("decoder.encoder.", "encoder.")
        state[key] = state[name.replace("all_modules.0", "conv").replace("all_modules.1", "norm")]
    return state


def image(entry):
    dims = 3 if entry["architecture"]["conv_op"].endswith("3d") else 2
    return torch.sin(torch.arange(8**dims, dtype=torch.float64)).reshape(1, 1, *[8] * dims).float()


def test_names_shapes_and_outputs_are_nnunets(entry):
    network = build(entry).eval()
    network.load_state_dict(theirs(entry), strict=True)
    own = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert own.items() <= entry["parameters"].items()
    assert own.keys() == without_duplicates(theirs(entry)).keys()
    values = network(image(entry)).detach().flatten()
    torch.testing.assert_close(
        values[:: max(1, len(values) // 8)][:8], torch.tensor(entry["output"]), atol=2e-5, rtol=0
    )


def test_differing_duplicates_are_refused(entry):
    state = theirs(entry)
    key = next(key for key in state if key.startswith("decoder.encoder."))
    state[key] = state[key] + 1
    with pytest.raises(DataError, match="other values"):
        build(entry).load_state_dict(state)


def test_a_network_within_another_loads_too(entry):
    outer = torch.nn.Sequential(build(entry))
    outer.load_state_dict({f"0.{key}": value for key, value in theirs(entry).items()}, strict=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_can_be_scripted_and_exported(entry):
    network = build(entry).eval()
    expected = network(image(entry))
    torch.testing.assert_close(torch.jit.script(network)(image(entry)), expected)
    torch.testing.assert_close(torch.export.export(network, (image(entry),)).module()(image(entry)), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", TABLE[1:], indirect=True)
def test_it_can_be_exported_for_variable_sizes(entry):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = build(entry | {"architecture": entry["architecture"] | {"strides": [1, 2, 2]}}).eval()
    axes = {"image": [0, 2, 3, 4], "pred": [0, 2, 3, 4]}
    names = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": axes}
    program = torch.onnx.export(network, (torch.rand(2, 1, 8, 12, 16),), **names, dynamo=True)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    other = torch.rand(1, 1, 16, 8, 4)
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"image": other.numpy()})[0]), network(other).detach(), atol=1e-4, rtol=0
    )


def test_training_gives_the_levels_that_the_losses_take(entry):
    network = build(entry).train()
    levels = network(image(entry))
    assert [level.shape[-1] for level in levels] == [8, 4]
    label = torch.zeros(1, 1, *image(entry).shape[2:])
    assert DeepSupervisionLoss(MaskedDiceCELoss())(levels, label).isfinite()
    assert isinstance(build(entry, deep_supervision=False).train()(image(entry)), torch.Tensor)


def test_residual_blocks_start_as_their_skip():
    network = build(TABLE[1])
    assert not network.encoder.stages[1].blocks[0].conv2.norm.weight.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout_op": "torch.nn.Dropout3d"}, "dropout_op"),
        ({"squeeze_excitation": True}, "squeeze_excitation"),
        ({"norm_op": "torch.nn.GroupNorm"}, "norm_op.*GroupNorm.*InstanceNorm3d"),
        ({"nonlin": "torch.nn.PReLU"}, "nonlin.*PReLU"),
        ({"strides": [1, 2]}, r"2 values.*expected 3"),
    ],
)
def test_another_architecture_is_refused_by_name(change, message):
    with pytest.raises(DataError, match=message):
        build(TABLE[1] | {"architecture": TABLE[1]["architecture"] | change})


def test_a_missing_argument_is_named():
    architecture = {key: value for key, value in TABLE[0]["architecture"].items() if key != "n_conv_per_stage"}
    with pytest.raises(DataError, match="no n_conv_per_stage"):
        build(TABLE[0] | {"architecture": architecture})


def test_training_sizes_that_the_strides_do_not_divide_are_rejected():
    entry = next(entry for entry in TABLE if entry["class"] == "PlainConvUNet")
    network = build(entry)
    sizes = [size + 1 for size in image(entry).shape[2:]]
    with pytest.raises(DataError, match=rf"the network: found patches or slices of \{sizes}, expected multiples of"):
        network(torch.zeros(1, 1, *sizes))
