"""Windows as nnU-Net places, weighs and blends them, computed by hand."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from custom.inferers import NnunetInferer, SlidingWindow
from custom.ops.windows import WindowGrid, even_starts, nnunet_weights


@pytest.mark.parametrize(
    ("size", "roi", "step", "starts"),
    [
        (110, 64, 32, [0, 23, 46]),
        (64, 64, 32, [0]),
        (65, 64, 32, [0, 1]),
        (12, 5, 2.5, [0, 2, 5, 7]),
        (140, 100, 100 * (1 - 0.8), [0, 20, 40]),
    ],
)
def test_windows_are_spread_evenly(size, roi, step, starts):
    assert even_starts(size, roi, step) == starts


@pytest.mark.parametrize("roi", [(16, 24), (7, 10), (1, 16)])
def test_weights_are_a_filtered_point_in_half_precision(roi):
    point = np.zeros(roi)
    point[tuple(length // 2 for length in roi)] = 1
    expected = gaussian_filter(point, [length / 8 for length in roi], mode="constant")
    expected = torch.from_numpy(expected / expected.max() * 10).half().float()
    expected[expected == 0] = expected[expected > 0].min()
    assert torch.equal(nnunet_weights(roi), expected)


def test_a_part_has_the_windows_of_the_whole():
    grid = WindowGrid((40, 30, 20), (8, 10, 12), (4, 5, 6), (4, 5, 6))
    part = grid.part(((17, 23), (0, 30), (0, 20)))
    first = part.read[0][0]
    starts = [start for start in even_starts(40, 8, 4) if start < 23 and start + 8 > 17]
    assert [start + first for start in part.starts[0]] == starts


class NnunetWindows(SlidingWindow):
    like_nnunet = True


class Position(torch.nn.Module):
    """Logits that depend on the place in the window."""

    def forward(self, windows):
        ramp = torch.arange(float(windows[0, 0].numel())).reshape(windows.shape[2:]) / 10
        return torch.cat([windows * ramp, 1 - windows], 1)


def test_logits_are_blended_over_windows_and_views_then_activated():
    volume, roi = torch.rand(1, 1, 9, 6, 5), (4, 4, 6)
    inferer = NnunetWindows(
        roi_size=roi, overlap=0.5, activation="softmax", channels=[1], tta=["depth"], precision="float32",
        sw_batch_size=3,
    )  # fmt: skip
    padded = torch.nn.functional.pad(volume, (0, 1))
    total, weight, weights = torch.zeros(2, 9, 6, 6), torch.zeros(9, 6, 6), nnunet_weights(roi)
    for z in even_starts(9, 4, 2):
        for y in even_starts(6, 4, 2):
            window = padded[:, :, z : z + 4, y : y + 4]
            logits = (Position()(window) + Position()(window.flip(2)).flip(2))[0] / 2
            total[:, z : z + 4, y : y + 4] += logits * weights
            weight[z : z + 4, y : y + 4] += weights
    expected = (total / weight).softmax(0)[1:, :, :, :5]
    torch.testing.assert_close(inferer(volume, Position())[0], expected)


class _OneSlice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, windows):
        return self.convolution(windows[:, :, 0])[:, :, None]


def test_a_2d_network_in_bfloat16():
    network, volume = _OneSlice().eval(), torch.rand(1, 1, 3, 16, 16)
    inferers = [SlidingWindow(roi_size=[1, 16, 16], precision=name) for name in ("bfloat16", "float32")]
    bfloat16, float32 = (inferer(volume, network) for inferer in inferers)
    assert torch.allclose(bfloat16, float32, atol=0.02) and not torch.equal(bfloat16, float32)


def test_a_single_slice_with_all_axes_reversed():
    """Reoriented, it is a view with a negative stride that NumPy calls contiguous."""
    values = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image = MetaTensor(values.clone(), affine=torch.diag(torch.tensor([1.0, 1, 1, 1])))
    image.meta["original_affine"] = torch.diag(torch.tensor([-1.0, -1, -1, 1])).numpy()
    inferer = NnunetInferer(spacing=[1, 1], roi_size=[1, 8, 8], activation="softmax", precision="float32")
    found = inferer(image[None], lambda windows: torch.cat([torch.zeros_like(windows), windows], 1))
    torch.testing.assert_close(found[0, 1].as_tensor(), values.sigmoid()[0])
