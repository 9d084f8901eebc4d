"""Batches finished on a GPU, which is pretended: equal to those of the workers, and made without a wait of the host."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.transforms import RandFlipd, ScaleIntensityRanged

from custom.data import PatchDataset, SliceDataset, StreamLoader
from custom.ops import thinning
from custom.transforms import (
    BatchCompose,
    LabelToRegionsd,
    RandContrastd,
    RandNoised,
    RandPatchDropoutd,
    RandSheetCompressiond,
    RandSymmetriesd,
    RandWarpd,
    SurfaceTargetsd,
)

pretended_gpu = pytest.importorskip("scripts.pretended_gpu")
pytestmark = [
    pytest.mark.skipif(pretended_gpu.why_not() is not None, reason=str(pretended_gpu.why_not())),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set"),
]
BOTH = ["image", "label"]


def volumes() -> list[SimpleNamespace]:
    random = np.random.default_rng(0)
    found = []
    for name in "ab":
        image = random.integers(0, 255, (20, 24, 24), dtype=np.uint8)
        label = np.zeros_like(image)
        label[8:11], label[:, 20:] = 1, 2
        histogram = np.stack([(label == c).sum((1, 2)) for c in range(3)], 1)
        foreground = {c: np.argwhere(label == c).astype(np.int32) for c in (1, 2)}
        rest = {"spacing": (1.0, 1.0, 1.0), "label_histogram": histogram, "foreground": foreground}
        found.append(SimpleNamespace(id=name, image=image, label=label, **rest))
    return found


def surface(device: str) -> StreamLoader:
    patches = PatchDataset(
        data=volumes(), patch_size=(12, 16, 16), seed=0, transform=RandSheetCompressiond(prob=0.5), label_padding=2
    )
    warp = RandWarpd(
        keys=BOTH, mode=["bilinear", "surface"], rotate_range=0.3, elastic_magnitude=3, slice_shift=1, label_padding=2
    )
    chain = [
        warp,
        ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1),
        RandSymmetriesd(BOTH, spatial_size=(12, 16, 16)),
        RandPatchDropoutd("image", holes=1, max_holes=3, spatial_size=3, prob=0.5),
        RandContrastd("image", gamma=(0.7, 1.5), prob=0.5),
        RandNoised("image", prob=0.5),
        SurfaceTargetsd("label"),
    ]
    return StreamLoader(dataset=patches, batch_size=2, transform=BatchCompose(chain), device=device)


def liver(device: str) -> StreamLoader:
    flip = RandFlipd(BOTH, prob=0.5, spatial_axis=1)
    slices = SliceDataset(data=volumes(), seed=0, transform=flip, slice_size=(20, 28), n_context=1)
    chain = [
        ScaleIntensityRanged("image", a_min=20, a_max=200, b_min=0, b_max=1, clip=True),
        RandWarpd(keys=BOTH, rotate_range=0.3, scale_range=0.1, elastic_magnitude=(1, 3), elastic_spacing=8),
        LabelToRegionsd("label"),
    ]
    return StreamLoader(dataset=slices, batch_size=3, transform=BatchCompose(chain), device=device)


@pytest.mark.parametrize("loader", [surface, liver])
def test_a_gpu_makes_the_batches_of_the_workers_without_a_wait(loader, monkeypatch):
    monkeypatch.setattr(thinning, "ITERATIONS", 8)  # as many as patches as small as these need
    expected = list(islice(loader("cpu"), 4))
    with pretended_gpu.PretendedGPU() as record:
        found = []
        for batch in islice(loader("cuda"), 4):
            assert {batch[key].device.type for key in BOTH} == {"cuda"}
            assert not record.waits, record.waits
            found.append({key: batch[key].cpu() for key in BOTH})
            record.waits.clear()
        to_device = [kind for kind in record.copies if kind.startswith("H2D")]
        assert to_device == ["H2D, pinned"]
    for batch, other in zip(found, expected, strict=True):
        torch.testing.assert_close(batch["image"], other["image"], rtol=0, atol=1e-5)
        assert torch.equal(batch["label"], other["label"])


def test_only_voxels_are_sent_in_their_own_dtype():
    loader = surface("cuda")
    loader.transform = None
    with pretended_gpu.PretendedGPU() as record:
        batch = next(iter(loader))
        assert batch["image"].dtype == batch["label"].dtype == torch.uint8
        assert batch["seed"].device.type == batch["position"].device.type == "cpu"
    assert record.copied_bytes["H2D"] == 2 * 2 * 2 * 12 * 16 * 16  # two batches, one of them ahead


def test_a_batch_is_made_while_the_one_before_is_in_use():
    made = []

    def note(batch: dict) -> dict:
        made.append(batch["seed"].tolist())
        return batch

    loader = surface("cuda")
    loader.transform = note
    with pretended_gpu.PretendedGPU():
        for taken, _ in enumerate(islice(loader, 4), start=1):
            assert len(made) == taken + 1
            assert loader.step == taken
