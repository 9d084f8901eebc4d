import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from custom.ops.target_layout import TARGET_CHANNELS
from custom.transforms.surface_targets import SurfaceTargetsd

PLATE = np.zeros((1, 12, 16, 16), dtype=np.uint8)
PLATE[:, 4:8] = 1
PLATE[:, :, :, 12:] = 2


def test_channels_are_label_medial_surface_and_distance():
    target = SurfaceTargetsd("label", max_distance=4.0)({"label": PLATE})["label"]
    label, medial, distance = target
    assert TARGET_CHANNELS == ("label", "medial", "distance")
    assert target.shape == (3, 12, 16, 16)
    assert target.dtype == np.float32
    assert np.array_equal(label, PLATE[0])
    assert set(np.unique(medial)) == {0, 1}
    assert (label[medial == 1] == 1).all()
    voxels = distance[:6, 8, 4] * 4  # the surface begins between rows 3 and 4
    assert voxels.tolist() == [3.5, 2.5, 1.5, 0.5, -0.5, -1.5]


def test_the_ignored_region_is_background_to_skeleton_and_distance():
    unknown = np.where(PLATE == 2, 0, PLATE)
    transform = SurfaceTargetsd("label")
    with_ignored, without = (transform({"label": label})["label"] for label in (PLATE, unknown))
    assert np.array_equal(with_ignored[1:], without[1:])
    assert (with_ignored[0] == 2).any()
    expected = ndimage.distance_transform_edt(PLATE[0] != 1) - 0.5
    outside = PLATE[0] != 1
    np.testing.assert_allclose(with_ignored[2][outside], np.minimum(expected, 10)[outside] / 10, rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_uniform_labels_are_finite(value):
    target = SurfaceTargetsd("label")({"label": np.full((1, 4, 5, 6), value, dtype=np.uint8)})["label"]
    assert np.isfinite(target).all()
    assert (target[2] == (-1 if value == 1 else 1)).all()


def test_keeps_the_kind_of_array_and_other_items():
    label = torch.from_numpy(PLATE)
    data = {"image": torch.zeros(1), "label": label}
    result = SurfaceTargetsd("label")(data)
    assert type(result["label"]) is torch.Tensor
    assert result["label"].dtype == torch.float32
    assert isinstance(SurfaceTargetsd("label")({"label": MetaTensor(label)})["label"], MetaTensor)
    assert result["image"] is data["image"]
    assert data["label"].shape == (1, 12, 16, 16)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (4, 5, 6)])
def test_refuses_what_is_not_one_label_volume(shape):
    with pytest.raises(ValueError, match=r"\(1, D, H, W\)"):
        SurfaceTargetsd("label")({"label": np.zeros(shape)})
