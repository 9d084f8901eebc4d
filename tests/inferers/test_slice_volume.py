"""Slice-wise inference against plain loops, MONAI's inferer and values computed by hand."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SliceInferer
from monai.networks.nets import FlexibleUNet
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from custom.errors import DataError
from custom.inferers import SliceVolumeInferer


class Recorder:
    """A network that remembers what it was given and answers with its first channel."""

    def __init__(self):
        self.batches = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x.clone())
        return x[:, :1]


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1)
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(2, 2, 5, 12, 10, generator=torch.Generator().manual_seed(0))


# -------------------------------------------------------------------------------------------------- equal to others


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_equals_a_plain_loop(network, volume, batch_size):
    with torch.no_grad():
        expected = torch.stack([torch.sigmoid(network(volume[:, :, z])) for z in range(5)], dim=2)
    result = SliceVolumeInferer(sw_batch_size=batch_size, precision="float32")(volume, network)
    torch.testing.assert_close(result, expected)
    assert result.shape == (2, 3, 5, 12, 10)
    assert not result.requires_grad


def test_equals_monais_slice_inferer(network, volume):
    with torch.no_grad():
        expected = SliceInferer(roi_size=(12, 10), sw_batch_size=3, spatial_dim=0)(volume, network)
    result = SliceVolumeInferer(sw_batch_size=3, precision="float32", activation=None)(inputs=volume, network=network)
    torch.testing.assert_close(result, expected)


def test_scripted_network(network, volume):
    inferer = SliceVolumeInferer(precision="float32")
    torch.testing.assert_close(inferer(volume, torch.jit.script(network)), inferer(volume, network))


def test_slices_alone(network, volume):
    result = SliceVolumeInferer(precision="float32", sw_batch_size=1, n_context=0)(volume[:, :, 3], network)
    assert result.shape == (2, 3, 12, 10)
    torch.testing.assert_close(result, SliceVolumeInferer(precision="float32")(volume, network)[:, :, 3])


def test_integers_are_given_to_the_network_as_float32():
    recorder = Recorder()
    volume = torch.arange(-6, 6, dtype=torch.int16).reshape(1, 1, 3, 2, 2)
    result = SliceVolumeInferer(activation=None, precision="float32")(volume, recorder)
    assert recorder.batches[0].dtype == torch.float32
    assert torch.equal(result, volume.float())


# -------------------------------------------------------------------------------------------------------- odd sizes


def test_odd_sizes_are_padded_by_the_edge_and_cropped_back():
    recorder = Recorder()
    volume = torch.arange(15.0).reshape(1, 1, 1, 3, 5)
    result = SliceVolumeInferer(divisor=4, activation=None, precision="float32")(volume, recorder)
    torch.testing.assert_close(result, volume)
    rows = [[*range(5 * r, 5 * r + 5), 5 * r + 4, 5 * r + 4, 5 * r + 4] for r in (0, 1, 2, 2)]
    assert recorder.batches[0][0, 0].tolist() == rows


def test_flipped_views_are_padded_after_they_are_flipped(network, volume):
    """As a network does that pads inside, so that it makes no difference who pads."""

    def padding_network(x: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8), mode="replicate")
        return network(padded)[:, :, : x.shape[2], : x.shape[3]]

    expected = SliceVolumeInferer(tta=["horizontal", "vertical"], precision="float32")(volume, padding_network)
    result = SliceVolumeInferer(tta=["horizontal", "vertical"], divisor=8, precision="float32")(volume, network)
    torch.testing.assert_close(result, expected)


def test_monais_unet_takes_any_size_when_padded(volume):
    unet = FlexibleUNet(in_channels=2, out_channels=1, backbone="efficientnet-b0", decoder_channels=(8,) * 5).eval()
    with pytest.raises(ValueError, match="made"):
        SliceVolumeInferer(precision="float32")(torch.rand(1, 2, 1, 37, 33), unet)
    assert SliceVolumeInferer(precision="float32", divisor=32)(torch.rand(1, 2, 1, 37, 33), unet).shape == (
        1,
        1,
        1,
        37,
        33,
    )


# ---------------------------------------------------------------------------------------------- batches and context


def test_batches_have_the_given_size_and_a_remainder(volume):
    recorder = Recorder()
    SliceVolumeInferer(sw_batch_size=4, precision="float32")(volume, recorder)
    assert [len(batch) for batch in recorder.batches] == [4, 4, 2]


def numbered(n_volumes: int, n_channels: int, n_slices: int) -> torch.Tensor:
    """Volume b, channel c, slice z has the value 100 b + 10 c + z everywhere."""
    b, c, z = torch.meshgrid(*map(torch.arange, (n_volumes, n_channels, n_slices)), indexing="ij")
    return (100 * b + 10 * c + z).float()[..., None, None].expand(-1, -1, -1, 2, 2)


def channels_seen(inferer: SliceVolumeInferer, volume: torch.Tensor) -> list[list[int]]:
    recorder = Recorder()
    inferer(volume, recorder)
    return torch.cat(recorder.batches)[:, :, 0, 0].int().tolist()


def test_context_of_adjacent_slices():
    expected = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert channels_seen(SliceVolumeInferer(n_context=2, sw_batch_size=3), numbered(1, 1, 4)) == expected


def test_context_stays_within_its_volume_and_takes_all_channels_of_a_slice():
    expected = [[0, 10, 0, 10, 1, 11], [0, 10, 1, 11, 1, 11]]
    expected += [[100 + value for value in row] for row in expected]
    assert channels_seen(SliceVolumeInferer(n_context=1, sw_batch_size=3), numbered(2, 2, 2)) == expected


def with_spacing(volume: torch.Tensor, *spacings: float) -> MetaTensor:
    """A batch of volumes as MONAI's loader makes it, each with its distance between slices."""
    items = [
        MetaTensor(one, affine=torch.diag(torch.tensor([mm, 0.7, 0.7, 1.0])))
        for one, mm in zip(volume, spacings, strict=True)
    ]
    return next(iter(DataLoader(Dataset(items), batch_size=len(items))))


def test_context_in_millimetres_follows_each_volumes_spacing():
    volume = with_spacing(numbered(2, 1, 5), 1.0, 2.0)
    assert channels_seen(SliceVolumeInferer(n_context=1, context_mm=2.0, precision="float32"), volume) == [
        *([0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 4], [2, 4, 4]),
        *([100, 100, 101], [100, 101, 102], [101, 102, 103], [102, 103, 104], [103, 104, 104]),
    ]


def test_context_in_millimetres_needs_the_spacing():
    with pytest.raises(ValueError, match="MetaTensor"):
        SliceVolumeInferer(n_context=1, context_mm=2.0)(numbered(1, 1, 3), Recorder())


# ------------------------------------------------------------------------------------------------------------- flips


def test_flips_by_hand():
    """A network that adds (0, ln 3) by column and (0, 0) by row: probabilities 1/2 and 3/4 on zeros."""

    def shifted(x):
        return x + torch.tensor([0.0, math.log(3.0)])

    zeros = torch.zeros(1, 1, 1, 2, 2)
    plain = SliceVolumeInferer(precision="float32")(zeros, shifted)
    torch.testing.assert_close(plain, torch.tensor([0.5, 0.75]).expand(1, 1, 1, 2, 2))
    mirrored = SliceVolumeInferer(tta=["horizontal"], precision="float32")(zeros, shifted)
    torch.testing.assert_close(mirrored, torch.full_like(zeros, 0.625))
    logits = SliceVolumeInferer(tta=["horizontal"], activation=None, precision="float32")(zeros, shifted)
    torch.testing.assert_close(logits, torch.full_like(zeros, math.log(3.0) / 2))
    rows = SliceVolumeInferer(tta=["vertical"], precision="float32")(zeros, shifted)
    torch.testing.assert_close(rows, plain)
    all_four = SliceVolumeInferer(tta=["horizontal", "vertical"], precision="float32")(zeros, shifted)
    torch.testing.assert_close(all_four, torch.full_like(zeros, (0.5 + 0.75 + 0.5 + 0.75) / 4))


def test_flipped_views_are_put_back(volume):
    """A network that works voxel by voxel answers the same whichever way its input lies."""

    def network(x):
        return 3 * x[:, :1] - x[:, 1:]

    plain = SliceVolumeInferer(precision="float32")(volume, network)
    turned = SliceVolumeInferer(precision="float32", tta=["horizontal", "vertical"])(volume, network)
    torch.testing.assert_close(turned, plain)


def test_flips_reverse_rows_and_columns(volume):
    recorder = Recorder()
    SliceVolumeInferer(precision="float32", tta=["horizontal", "vertical"])(volume, recorder)
    plain, vertical, horizontal, both = recorder.batches[:4]
    assert torch.equal(vertical, plain[..., range(11, -1, -1), :])
    assert torch.equal(horizontal, plain[..., range(9, -1, -1)])
    assert torch.equal(both, plain[..., range(11, -1, -1), :][..., range(9, -1, -1)])


def test_softmax_sums_to_one(network, volume):
    result = SliceVolumeInferer(precision="float32", activation="softmax", tta=["vertical"])(volume, network)
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2, 5, 12, 10))


# --------------------------------------------------------------------------------------------- precision and devices


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_used_and_close(network, volume, precision):
    seen = []
    handle = network[0].register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    result = SliceVolumeInferer(precision=precision)(volume, network)
    handle.remove()
    assert set(seen) == {getattr(torch, precision)}
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, SliceVolumeInferer(precision="float32")(volume, network), atol=0.01, rtol=0)


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_precision_asks_the_processor(network, volume, monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    seen = []
    network[0].register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    SliceVolumeInferer(precision="auto")(volume, network)
    assert set(seen) == {expected}


def test_automatic_precision_without_the_question(network, volume, monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    torch.testing.assert_close(
        SliceVolumeInferer(precision="auto")(volume, network), SliceVolumeInferer(precision="float32")(volume, network)
    )


def test_batches_go_to_the_network_and_the_result_to_the_inputs_device(volume, monkeypatch):
    """The meta device stands for an accelerator, whose values cannot be asked for."""
    monkeypatch.setattr("custom.inferers.slice_volume.predict_finite", lambda inferer, predict: predict(inferer))

    class OnMeta(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))
            self.devices = set()

        def forward(self, x):
            self.devices.add(x.device.type)
            return torch.zeros(len(x), 1, *x.shape[2:])

    network = OnMeta()
    assert SliceVolumeInferer()(volume, network).device.type == "cpu"
    assert network.devices == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_volume_on_the_cpu_and_network_on_the_gpu(network, volume, precision):
    expected = SliceVolumeInferer(precision="float32")(volume, network)
    result = SliceVolumeInferer(precision=precision)(volume, network.cuda())
    assert result.device.type == "cpu"
    torch.testing.assert_close(result, expected, atol=0.01, rtol=0)


# ------------------------------------------------------------------------------------------------- memory and progress


def test_nothing_of_the_volumes_size_is_made_but_the_output():
    class Sizes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.storages = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    storage = leaf.untyped_storage()
                    self.storages[storage.data_ptr()] = max(storage.nbytes(), self.storages.get(storage.data_ptr(), 0))
            return result

    volume = torch.rand(1, 1, 40, 8, 8)
    inferer = SliceVolumeInferer(sw_batch_size=2, n_context=1, tta=["horizontal"], precision="float32")
    with Sizes() as sizes:
        output = inferer(volume, lambda x: x[:, :2])
    sizes.storages.pop(volume.untyped_storage().data_ptr())
    assert sizes.storages.pop(output.untyped_storage().data_ptr()) == 2 * volume.nbytes
    assert max(sizes.storages.values()) <= 2 * 3 * 8 * 8 * 4  # batch, channels, rows, columns, bytes


def test_progress_is_shown_when_asked_and_then_wiped(network, volume, capsys):
    SliceVolumeInferer(precision="float32")(volume, network)
    assert capsys.readouterr().err == ""
    SliceVolumeInferer(precision="float32", sw_batch_size=4, progress=True)(volume, network)
    shown = capsys.readouterr().err
    assert "/3 [" in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""


# ------------------------------------------------------------------------------------------------------- with MONAI


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL", "IAR"])
def test_prediction_lands_in_the_files_own_order(tmp_path, orientation):
    """Through MONAI's evaluator and Invertd, a thresholding network marks the voxels above the threshold."""
    values = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32)
    axes = nib.orientations.axcodes2ornt(tuple(orientation))
    affine = np.diag([0.7, 0.8, 2.5, 1.0]) @ nib.orientations.inv_ornt_aff(axes, values.shape)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "volume.nii.gz")
    preprocessing = Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="SPL", labels=None)]
    )
    depths = []

    class Threshold(torch.nn.Module):
        def forward(self, x):
            depths.append(len(x))
            return 1000 * (x - 0.3)

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(tmp_path / "volume.nii.gz")}], preprocessing), batch_size=1),
        network=Threshold(),
        inferer=SliceVolumeInferer(sw_batch_size=100, tta=["horizontal"]),
        postprocessing=Compose(
            [Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True), AsDiscreted("pred", threshold=0.5)]
        ),
    )
    evaluator.run()
    prediction = evaluator.state.output[0]["pred"]
    assert np.array_equal(prediction[0].numpy(), values > 0.3)
    np.testing.assert_allclose(prediction.affine.numpy(), affine, atol=1e-6)
    # the slices are those across the body's axis, wherever the file keeps it
    superior = next(axis for axis, code in enumerate(nib.aff2axcodes(affine)) if code in "SI")
    assert set(depths) == {values.shape[superior]}


def test_plain_tensor_stays_plain_and_metadata_is_kept(network, volume):
    inferer = SliceVolumeInferer(precision="float32")
    assert type(inferer(volume, network)) is torch.Tensor
    metatensor = with_spacing(volume.to(torch.float16), 1.5, 2.5)
    result = inferer(metatensor, network)
    assert isinstance(result, MetaTensor)
    assert result.dtype == torch.float32
    assert torch.equal(result.affine, metatensor.affine)


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sw_batch_size": 0}, "sw_batch_size"),
        ({"divisor": 0}, "divisor"),
        ({"tta": ["depth"]}, "found \\['depth'\\], expected a list of any of vertical, horizontal"),
        ({"activation": "relu"}, "activation"),
        ({"precision": "float8"}, "precision"),
        ({"n_context": -1}, "n_context"),
        ({"n_context": 1, "context_mm": 0.0}, "context_mm"),
    ],
)
def test_ill_options(options, message):
    with pytest.raises(ValueError, match=message):
        SliceVolumeInferer(**options)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 1, 0, 4, 4), (1, 1, 1, 2, 4, 4)])
def test_ill_shapes(shape):
    with pytest.raises(ValueError, match="expected"):
        SliceVolumeInferer()(torch.zeros(shape), Recorder())


def test_a_prediction_that_is_not_finite_is_an_error(volume):
    with pytest.raises(DataError, match="values that are not finite, expected finite ones"):
        SliceVolumeInferer()(volume, lambda x: x * torch.nan)


def test_prediction_of_another_size(volume):
    with pytest.raises(ValueError, match=r"made \(6, 5\) of slices of \(12, 10\)"):
        SliceVolumeInferer()(volume, lambda x: x[..., ::2, ::2])


def test_a_batch_that_is_too_large_for_the_memory_is_cut(network, volume, caplog):
    sizes = []

    def cramped(slices):
        sizes.append(len(slices))
        if len(slices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(slices)

    inferer = SliceVolumeInferer(sw_batch_size=5, precision="float32")
    found = inferer(volume, cramped)
    torch.testing.assert_close(found, SliceVolumeInferer(sw_batch_size=1, precision="float32")(volume, network))
    assert sizes[0] == 5 and max(sizes[1:]) == inferer.sw_batch_size == 2
    assert "out of GPU memory with 5 slices at a time: trying 2" in caplog.text
