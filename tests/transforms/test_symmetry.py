import pytest
import torch

from custom.errors import DataError
from custom.transforms.symmetry import RandSymmetriesd


def test_turns_only_where_the_shape_stays():
    symmetries = RandSymmetriesd("image", spatial_size=(2, 3, 3), rotate_prob=1.0).set_random_state(0)
    image = torch.arange(18.0).reshape(1, 2, 3, 3)
    turned = symmetries({"image": image})["image"]
    assert turned.shape == image.shape
    assert sorted(turned.flatten().tolist()) == sorted(image.flatten().tolist())


def test_refuses_a_patch_of_two_dimensions():
    with pytest.raises(DataError, match=r"patch_size: found \[16, 24\], expected three numbers"):
        RandSymmetriesd("image", spatial_size=[16, 24])
