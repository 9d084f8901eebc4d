import numpy as np
import pytest
import torch
from monai.transforms import RandFlipd, ScaleIntensityRanged

from custom.transforms import (
    BatchCompose,
    LabelToRegionsd,
    RandContrastd,
    RandNoised,
    RandPatchDropoutd,
    RandSymmetriesd,
    RandWarpd,
    SurfaceTargetsd,
)

KEYS = ["image", "label"]
SIZE = (12, 20, 20)


def chain() -> BatchCompose:
    """All random transforms, each applied to some of the items, and one of MONAI's."""
    return BatchCompose(
        [
            RandWarpd(keys=KEYS, mode=["bilinear", "surface"], rotate_range=0.3, elastic_magnitude=3, slice_shift=1.0),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1),
            RandSymmetriesd(KEYS, spatial_size=SIZE),
            RandFlipd(KEYS, prob=0.5, spatial_axis=1),
            RandPatchDropoutd("image", holes=1, max_holes=3, spatial_size=3, prob=0.5),
            RandContrastd("image", gamma=(0.7, 1.5), prob=0.5),
            RandNoised("image", std=0.1, prob=0.5),
            SurfaceTargetsd("label"),
        ]
    )


def batch(items: int = 6) -> dict:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (items, 1, *SIZE), dtype=np.uint8)
    label = np.zeros_like(image)
    label[:, :, 5:8] = 1
    label[:, :, :, 15:] = 2
    seeds = torch.from_numpy(random.integers(2**32, size=items))
    return {"image": torch.from_numpy(image), "label": torch.from_numpy(label), "seed": seeds, "id": list("abcdefgh")}


def test_an_item_depends_on_its_seed_alone():
    """Whatever its neighbours in the batch are, bit for bit."""
    whole = batch()
    result = chain()(whole)
    assert set(result) == {"image", "label", "id"}
    assert {result["image"].dtype, result["label"].dtype} == {torch.float32}
    for n in range(6):
        alone = chain()({key: value[n : n + 1] for key, value in whole.items()})
        assert torch.equal(alone["image"][0], result["image"][n])
        assert torch.equal(alone["label"][0], result["label"][n])
    again = chain()({**whole, "seed": whole["seed"] + 1})
    assert not any(torch.equal(a, b) for a, b in zip(again["image"], result["image"], strict=True))


def test_the_batch_it_is_given_stays_as_it_is():
    given = batch()
    before = {key: given[key].clone() for key in KEYS}
    chain()(given)
    assert "seed" in given
    assert all(torch.equal(given[key], before[key]) for key in KEYS)


@pytest.mark.parametrize(
    "transform",
    [
        RandWarpd(keys=KEYS, rotate_range=0.3, prob=1.0),
        RandContrastd("image", gamma=(0.5, 2.0), prob=1.0),
        RandPatchDropoutd("image", holes=2, spatial_size=4, prob=1.0),
        RandSymmetriesd(KEYS, spatial_size=SIZE),
        LabelToRegionsd("label"),
    ],
)
def test_an_item_by_itself_is_transformed_as_in_a_batch(transform):
    whole = batch(2)
    together = BatchCompose([transform])(whole)
    for n, seed in enumerate(whole["seed"].tolist()):
        if hasattr(transform, "R"):
            transform.set_random_state(seed=seed)
        alone = transform({key: whole[key][n] for key in KEYS})
        assert all(torch.equal(alone[key], together[key][n]) for key in KEYS)
