"""The same result as MONAI's inferer, with less memory."""

from collections import Counter

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from scipy.ndimage import rotate
from torch.utils._python_dispatch import TorchDispatchMode

from custom.errors import DataError
from custom.inferers import SlidingWindow, sliding_window
from custom.inferers.views import FLIPS, View
from custom.ops.windows import WindowGrid

ROI, STRIDE, OVERLAP = (8, 12, 10), (4, 9, 10), (0.5, 0.25, 0)


def windows(**options):
    return SlidingWindow(**{"roi_size": ROI, "overlap": OVERLAP, "precision": "float32"} | options)


def test_a_stride_in_voxels_is_an_overlap():
    assert windows(overlap=0.9, stride=STRIDE).stride == windows().stride == STRIDE


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 3, 3, padding=1)
    )


def monai(**options):
    options = {"sw_batch_size": 1, "padding_mode": "replicate"} | options
    return SlidingWindowInferer(roi_size=ROI, overlap=OVERLAP, mode="gaussian", **options)


@pytest.mark.parametrize("size", [(8, 12, 10), (21, 30, 23), (5, 40, 7), (9, 13, 11), (64, 12, 10)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_equals_monai(network, size, batch_size):
    image = torch.randn(2, 2, *size)
    ours = SlidingWindow(roi_size=ROI, overlap=OVERLAP, sw_batch_size=batch_size, precision="float32")(image, network)
    theirs = monai()(image, network)
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=0)


def test_keeps_metadata_and_selects_channels(network):
    image = MetaTensor(torch.randn(1, 2, 9, 14, 12), meta={"filename_or_obj": "a.tif"})
    whole = windows(activation="softmax")(image, network)
    part = windows(activation="softmax", channels=[2, 0])(image, network)
    assert part.meta["filename_or_obj"] == "a.tif"
    torch.testing.assert_close(part.as_tensor(), whole.as_tensor()[:, [2, 0]])
    torch.testing.assert_close(whole.sum(1).as_tensor(), torch.ones(1, 9, 14, 12))


class Waits(TorchDispatchMode):
    """Counts operations for which the host waits, if the tensors are on a GPU: their result is read or determines a
    shape, or an index that Python holds is copied."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count.update([name] * (name in ("_local_scalar_dense", "nonzero", "index", "index_put_", "masked_select")))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("channels", [[1], [0, 2], [-1]])
def test_the_host_waits_for_no_window(network, channels):
    """Once, to check that the prediction is finite. Empty windows are found by one ``tolist``, as are, layer by layer,
    those that are not finite in a part of a volume."""
    inferer = windows(activation="softmax", channels=channels, empty_value=0.0, tta=["depth"], precision="bfloat16")
    with Waits() as waits:
        inferer(torch.rand(1, 2, 21, 30, 23), network)
    assert waits.count == {"_local_scalar_dense": 1}
    image = torch.rand(2, 21, 30, 23)
    with Waits() as waits:
        planes = inferer.planes(lambda start, stop: image[:, start:stop], inferer.grid(image.shape[1:]).part(), network)
        assert sum(group.shape[1] for group in planes) == 21
    assert not waits.count


@pytest.mark.parametrize(
    ("tta", "count"),
    [
        ([], 1),
        (["depth"], 2),
        (["vertical", "horizontal"], 4),
        ([*FLIPS], 8),
        (["rotate90"], 4),
        ([*FLIPS, "rotate90"], 16),
    ],
)
def test_views_are_undone(tta, count):
    """A network that answers each voxel by itself says the same of every view; see the next test too."""
    calls = []

    def identity(windows):
        calls.append(len(windows))
        return windows

    image = torch.randn(1, 1, 8, 10, 10)
    found = SlidingWindow(roi_size=(8, 10, 10), overlap=0.5, tta=tta, precision="float32")(image, identity)
    torch.testing.assert_close(found, image)
    assert sum(calls) == count


def test_turns_average_what_depends_on_the_view():
    rows = torch.arange(4.0).reshape(1, 1, 1, 4, 1).expand(1, 1, 2, 4, 4)
    found = windows(roi_size=(2, 4, 4), overlap=0, tta=["rotate90"], precision="float32")(rows, lambda x: x * 0 + rows)
    # 0 and 180 degrees: row and 3 - row; 90 and 270 degrees: the same along columns. The mean is 1.5 everywhere.
    torch.testing.assert_close(found, torch.full_like(found, 1.5))
    found = windows(roi_size=(2, 4, 4), overlap=0, tta=["vertical"], precision="float32")(
        rows, lambda x: x * 0 + rows**2
    )
    by_hand = (rows**2 + (3 - rows) ** 2) / 2
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("tta", [["rotate15"], ["rotate15", "rotate90", "horizontal"]])
def test_rotations_are_undone_and_average_in_nothing_from_outside(tta):
    """Linear interpolation leaves a linear image as it is; the corners that a rotation cuts off are not averaged in."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    image = (3 * rows + columns).expand(1, 1, 2, 12, 12)
    calls = []

    def identity(windows):
        calls.append(windows)
        return windows

    found = windows(roi_size=(2, 12, 12), overlap=0, tta=tta)(image, identity)
    assert len(calls) == 3 * (1 if len(tta) == 1 else 8)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], image[..., 1:-1, 1:-1], atol=0.7, rtol=0)
    torch.testing.assert_close(found[..., 3:-3, 3:-3], image[..., 3:-3, 3:-3], atol=1e-4, rtol=0)
    if len(tta) == 1:
        torch.testing.assert_close(found[..., 0, 0], image[..., 0, 0])  # shown by no rotation


def test_a_rotation_is_scipys():
    image = torch.rand(1, 1, 2, 15, 15, generator=torch.Generator().manual_seed(0))
    turned = View(angle=15.0).of(image)[0, 0].numpy()
    expected = rotate(image[0, 0].numpy(), 15, axes=(2, 1), order=1, reshape=False, mode="nearest")
    opposite = rotate(image[0, 0].numpy(), -15, axes=(2, 1), order=1, reshape=False, mode="nearest")
    assert min(abs(turned - expected).max(), abs(turned - opposite).max()) < 1e-5


def test_empty_windows_are_not_predicted():
    seen = []

    def network(windows):
        seen.append(windows.amax(dim=(1, 2, 3, 4)))
        return torch.full_like(windows, 5.0)

    image = torch.full((1, 1, 8, 8, 24), -1.0)
    image[..., 20] = 0.5
    inferer = SlidingWindow(
        roi_size=(8, 8, 8), overlap=0, sw_batch_size=3, activation="sigmoid", empty_value=-1.0, precision="float32"
    )
    found = inferer(image, network)
    assert torch.cat(seen).tolist() == [0.5]
    assert found[..., :16].abs().max() == 0
    torch.testing.assert_close(found[..., 16:], torch.full((1, 1, 8, 8, 8), 5.0).sigmoid())


def test_a_volume_without_anything_is_zero(network):
    empty = torch.full((1, 2, 9, 14, 12), -1.0)
    options = {
        "roi_size": ROI,
        "overlap": OVERLAP,
        "activation": "softmax",
        "empty_value": -1.0,
        "precision": "float32",
    }
    assert torch.equal(windows(**options)(empty, network), torch.zeros(1, 3, 9, 14, 12))
    assert torch.equal(windows(**options, channels=[1])(empty, network), torch.zeros(1, 1, 9, 14, 12))


def peak_memory(work) -> int:
    """Bytes allocated by torch while ``work()`` runs, at their largest."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_memory_beside_the_output_is_a_few_slabs_however_long_the_volume():
    plane, voxel = 24 * 20, 4
    slab = voxel * 2 * ROI[0] * plane
    for depth in (64, 256):
        image = torch.randn(1, 2, depth, 24, 20)
        output = voxel * 2 * depth * plane
        inferer = windows()
        assert output < peak_memory(lambda: inferer(image, lambda x: x)) < output + 5 * slab  # noqa: B023
        assert peak_memory(lambda: monai()(image, lambda x: x.clone())) > 1.5 * output  # noqa: B023


def test_halves_the_batch_when_the_memory_runs_out(network, caplog):
    sizes = []

    def cramped(windows):
        sizes.append(len(windows))
        if len(windows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(windows)

    image = torch.randn(1, 2, 8, 30, 10)
    inferer = SlidingWindow(roi_size=ROI, overlap=OVERLAP, sw_batch_size=3, precision="float32")
    torch.testing.assert_close(inferer(image, cramped), windows()(image, network))
    assert inferer.sw_batch_size == 1 and "out of GPU memory with 3 windows" in caplog.text


@pytest.mark.parametrize(
    "box", [((3, 20), (0, 30), (11, 23)), ((20, 21), (29, 30), (0, 1)), ((0, 8), (4, 25), (9, 10))]
)
def test_a_part_is_what_it_is_in_the_whole(network, box):
    image = torch.randn(1, 2, 21, 30, 23)
    inferer = windows()
    part = WindowGrid(image.shape[2:], ROI, STRIDE).part(box)
    piece = image[0][(slice(None), *(slice(*span) for span in part.read))]
    asked = []

    def read(start, stop):
        asked.append(start)
        return piece[:, start:stop]

    planes = [planes.clone() for planes in inferer.planes(read, part, network)]
    whole = inferer(image, network)[0]
    assert torch.equal(torch.cat(planes, dim=1), whole[(slice(None), *(slice(*span) for span in box))])
    assert asked == part.starts[0]
    assert part.count < WindowGrid(image.shape[2:], ROI, STRIDE).part().count


def test_a_part_of_an_axis_shorter_than_the_window():
    part = WindowGrid((5, 40, 7), ROI, STRIDE).part(((1, 3), (13, 14), (6, 7)))
    # rows: windows start at 0, 9, 18, 27, 28; those at 9 alone hold row 13, as they end before 21
    assert part.read == [(0, 5), (9, 21), (0, 7)]
    assert part.padding == [(1, 2), (0, 0), (1, 2)]
    assert part.starts == [[0], [0], [0]]
    assert part.inner == [(2, 4), (4, 5), (7, 8)]
    assert part.size == (8, 12, 10)


@pytest.mark.parametrize("concurrency", [2, 5])
def test_windows_at_the_same_time_change_nothing(network, concurrency):
    image = torch.randn(1, 2, 21, 30, 23)
    options = {"roi_size": ROI, "overlap": OVERLAP, "sw_batch_size": 2, "precision": "float32"}
    one = SlidingWindow(**options)(image, network)
    assert torch.equal(SlidingWindow(**options, concurrency=concurrency)(image, network), one)


def test_an_error_in_a_thread_is_raised(network):
    with pytest.raises(RuntimeError, match="expected input"):
        SlidingWindow(roi_size=ROI, overlap=OVERLAP, concurrency=3)(torch.zeros(1, 5, 20, 30, 30), network)


@pytest.fixture
def small_gpu(monkeypatch):
    """The CPU plays a GPU that cannot hold the sums beside a window."""
    slab = sliding_window._Slab
    move = slab.move_to_main_memory
    monkeypatch.setattr(slab, "on_gpu", property(lambda self: not hasattr(self, "moved")))
    monkeypatch.setattr(slab, "move_to_main_memory", lambda self: setattr(self, "moved", move(self)))


def failing_at_the_third_window(network, times):
    calls = []

    def call(windows):
        calls.append(len(windows))
        if 3 <= len(calls) < 3 + times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(windows)

    return call


def test_sums_go_to_main_memory_when_the_gpus_is_full(network, small_gpu, caplog):
    image = torch.randn(1, 2, 21, 30, 10)
    inferer = windows()
    expected = inferer(image, network)
    assert not caplog.text
    assert torch.equal(inferer(image, failing_at_the_third_window(network, times=1)), expected)
    assert "summed up in main memory from now on" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):  # nothing more can be given up
        inferer(image, failing_at_the_third_window(network, times=2))


def test_sums_begin_in_main_memory_when_the_gpu_has_no_room(network, caplog, monkeypatch):
    image = torch.randn(1, 2, 21, 30, 10)
    expected = windows()(image, network)
    zeros = torch.zeros

    def full(*args, device=None, **kwargs):
        if device is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(*args, **kwargs)

    monkeypatch.setattr(sliding_window.torch, "zeros", full)
    assert torch.equal(windows()(image, network), expected)
    assert "summed up in main memory" in caplog.text


def test_sums_and_weights_stay_together_when_the_gpu_has_room_for_some(monkeypatch):
    """The device ``meta`` stands in for the GPU: it is another one than the CPU, if without values."""
    slab = sliding_window._Slab(torch.ones(2, 3, 3), (5, 5), torch.device("meta"))
    assert slab.on_gpu
    zeros = torch.zeros

    def full(size, device=None):
        if device is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(size)

    monkeypatch.setattr(torch, "zeros", full)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: zeros(self.shape) if self.is_meta else self)
    slab.add((1, 2), torch.ones(4, 2, 3, 3))
    slab.weigh([(1, 2)])
    assert slab.blended(1).shape == (4, 1, 5, 5)
    assert {sums.device.type for sums in (slab.total, slab.weight, slab.weights)} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(network):
    image = torch.randn(1, 2, 21, 30, 23)
    expected = windows()(image, network)
    inferer = SlidingWindow(roi_size=ROI, overlap=OVERLAP, precision="float32", sw_batch_size=3)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = inferer(image, network.cuda())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_bfloat16_stays_close(network):
    image = torch.randn(1, 2, 20, 20, 20)
    exact = windows()(image, network)
    fast = SlidingWindow(roi_size=ROI, overlap=OVERLAP, precision="bfloat16")(image, network)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).norm() / exact.norm() < 2e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tta": ["rotate90"]}, "as many rows as columns"),
        ({"tta": ["mirror"]}, "expected a list of any of depth, vertical, horizontal, rotate90, rotate15"),
        ({"tta": "depth"}, "expected a list"),
        ({"sw_batch_size": 0}, "1 or more"),
        ({"overlap": (0.5, 0.5)}, "for each axis"),
        ({"activation": "tanh"}, "activation: found 'tanh', expected one of"),
        ({"empty_value": 0.0}, "needs an activation"),
        ({"overlap": 1.0}, "0 to below 1"),
        ({"stride": (4, 9, 11)}, "1 to the window's size"),
        ({"stride": (4, 4)}, "1 to the window's size"),
        ({"overlap": (0, 0, -0.1)}, "0 to below 1"),
        ({"concurrency": 0}, "1 or more"),
    ],
)
def test_ill_options(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**{"roi_size": ROI, "overlap": OVERLAP} | options)


def test_progress_is_shown_when_asked_and_then_wiped(network, capsys):
    image = torch.randn(1, 2, 12, 20, 20)
    windows()(image, network)
    assert capsys.readouterr().err == ""
    windows(progress=True)(image, network)
    shown = capsys.readouterr().err
    assert "windows: " in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""


def test_a_prediction_that_is_not_finite_is_an_error():
    """Of one voxel, which thresholds would take for background."""
    image = torch.zeros(1, 1, *ROI)
    image[0, 0, 3, 4, 5] = torch.nan
    with pytest.raises(DataError, match="values that are not finite, expected finite ones"):
        SlidingWindow(roi_size=ROI, overlap=OVERLAP)(image, torch.nn.Identity())


def test_refuses_a_slice():
    with pytest.raises(ValueError, match=r"\(B, C, D, H, W\)"):
        SlidingWindow(roi_size=ROI, overlap=OVERLAP)(torch.zeros(1, 1, 4, 4), torch.nn.Identity())
