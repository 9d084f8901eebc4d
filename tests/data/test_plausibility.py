"""Values that are not what they are taken for: of what real files are turned into by other programs."""

import nibabel
import numpy as np
import pytest

from custom.data.plausibility import Values, check_values, warn_of_identity
from custom.errors import DataError


def body():
    """A CT of a body with bone in air, as int16 HU, and noise of 10 HU."""
    hu = np.full((20, 32, 32), -1000.0)
    hu[:, 6:26, 4:28] = -90
    hu[:, 9:23, 7:25] = 60
    hu[:, 20:22, 14:18] = 700
    return (hu + np.random.default_rng(0).normal(0, 10, hu.shape)).round().astype(np.int16)


def cube():
    """A cube of 8 bits with all grey values."""
    return np.random.default_rng(0).integers(0, 256, (12, 14, 16)).astype(np.uint8)


def verdict(array, caplog, **options):
    """ "silent", or the message that warns of or refuses a file."""
    caplog.clear()
    try:
        check_values("a.nii", Values.of(np.asarray(array)), **options)
    except DataError as error:
        return f"refused {error}"
    return f"warned {caplog.messages[0]}" if caplog.messages else "silent"


def scaled(array, low, high):
    return (array - array.min()) / np.ptp(array) * (high - low) + low


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda hu: hu, "silent"),
        (lambda hu: hu.astype(np.int32), "silent"),
        (lambda hu: hu + 0.25, "silent"),
        (lambda hu: np.where(hu < -900, -1024, hu), "silent"),  # cut at the scanner's lowest value
        (lambda hu: np.pad(hu, 4, constant_values=-3024), "silent"),
        (lambda hu: np.pad(hu, 4, constant_values=-2048), "silent"),
        (lambda hu: hu.clip(-1000, 400), "silent"),  # a wide window
        (lambda hu: hu[:, 4:28, 2:30], "silent"),  # cropped to the body, with some air
        (lambda hu: hu[:, 6:26, 4:28].clip(-150), "warned"),  # without any: it may be right
        (lambda hu: hu.clip(-100, 200), "warned"),
        (lambda hu: (scaled(hu.clip(-160, 240), 0, 255)).astype(np.uint8), "warned"),
        (lambda hu: (hu + 1024).clip(0).astype(np.uint16), "warned"),
        (lambda hu: (hu + 1000).clip(0).astype(np.uint16), "warned"),
        (lambda hu: (hu + 32768.0).astype(np.uint16), "warned"),
        (lambda hu: np.pad(hu + 1024, 4, constant_values=-2000), "warned"),  # as stored, without the intercept
        (lambda hu: hu - 1024, "warned"),  # the intercept twice
        (lambda hu: -hu, "warned"),
        (lambda hu: hu * 10.0, "warned"),
        (lambda hu: np.abs(hu) * 20.0, "warned"),  # PET in Bq/ml, or MR
        (lambda hu: scaled(hu, 0, 65535).astype(np.uint16), "warned"),
        (lambda hu: np.zeros_like(hu), "warned"),
        (lambda hu: scaled(hu, 0, 1), "refused"),
        (lambda hu: scaled(hu, -1, 1).astype(np.float32), "refused"),
        (lambda hu: hu / 1000, "refused"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "refused"),
        (lambda hu: (hu > 0).astype(np.uint8), "refused"),  # a mask
    ],
)
def test_ct(change, expected, caplog):
    array = change(body())
    said = verdict(array, caplog)
    assert said.startswith(expected)
    if said != "silent":
        assert said.startswith(f"{expected} a.nii: found values from {array.min():g} to {array.max():g}")
        assert "\n" not in said and said.endswith("; --trust_values True takes the files as they are")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda grey: grey, "silent"),
        (lambda grey: grey.astype(np.uint16), "silent"),
        (lambda grey: grey.astype(np.float32), "silent"),
        (lambda grey: grey * np.float32(1 + 1e-6), "silent"),  # rounding
        (lambda grey: 255 - grey, "silent"),  # nothing tells
        (lambda grey: grey // 10, "silent"),  # a dark part
        (lambda grey: np.zeros_like(grey), "silent"),
        (lambda grey: np.full_like(grey, 255), "silent"),
        (lambda grey: grey * 1.02 - 2, "warned"),  # splines overshoot
        (lambda grey: grey > 200, "warned"),
        (lambda grey: grey.astype(np.uint16) * 257, "refused"),
        (lambda grey: grey.astype(np.uint16) * 16, "refused"),  # 12 bits
        (lambda grey: (grey * (300 / 255)).astype(np.uint16), "refused"),
        (lambda grey: (grey.astype(np.int16) - 128).astype(np.int8), "refused"),
        (lambda grey: grey / np.float32(255), "refused"),
        (lambda grey: grey / 127.5 - 1, "refused"),
    ],
)
def test_grey_values(change, expected, caplog):
    array = change(cube())
    said = verdict(array, caplog, grey_values=[0, 255])
    assert said.startswith(expected)
    if said != "silent":
        assert said.startswith(f"{expected} a.nii: found values from {array.min():g} to {array.max():g}")
        assert "expected grey values from 0 to 255; --grey_values sets the range of the whole dataset" in said


def test_the_hint_is_never_the_files_own_range(caplog):
    said = verdict(cube() * 3.7, caplog, grey_values=[0, 255])
    assert "943.5" in said.partition("expected")[0] and "943.5" not in said.partition("expected")[2]


def test_other_ranges(caplog):
    wide = cube().astype(np.uint16) * 257
    assert verdict(wide, caplog, grey_values=[0, 65535]) == "silent"
    assert verdict(wide, caplog, grey_values=[65535, 0]) == "silent"  # black on white
    assert "almost black" in verdict(cube(), caplog, grey_values=[0, 65535])
    assert verdict(cube() / 255, caplog, grey_values=[0, 1]) == "silent"


@pytest.mark.parametrize("order", ["C", "F"])
def test_shares_by_hand(order):
    array = np.asarray([[[-3024, -1101, -1100, -201], [-200, 299, 300, 3000]]], np.float64, order=order)
    assert Values.of(array) == (-3024, 3000, True, 0.25, 0.25, 0.25)
    array[0, 0, 0] += 0.5
    assert not Values.of(array).whole


def test_real_data_are_taken_without_a_word(real_liver, real_membranes, caplog):
    tifffile = pytest.importorskip("tifffile")
    for path in sorted(real_liver.glob("*_image.nii.gz")):
        assert verdict(nibabel.load(path).dataobj, caplog) == "silent"
    for path in sorted(real_membranes.glob("*_images/*.tif")):
        assert verdict(tifffile.imread(path), caplog, grey_values=[0, 255]) == "silent"


def test_an_identity_affine_is_warned_of_by_name(caplog):
    for affine, axes in ((np.eye(4), "RAS"), (np.diag([-1.0, -1.0, 1.0, 1.0]), "LPS")):
        caplog.clear()
        warn_of_identity("volume-28.nii", affine, (4, 5, 6))
        (said,) = caplog.messages
        assert said.startswith("volume-28.nii: found the identity affine") and f"voxels of 1 mm in {axes} order" in said
    caplog.clear()
    warn_of_identity("volume-48.nii", np.diag([-1.0, -1.0, 2.5, 1.0]), (4, 5, 6))
    assert not caplog.messages
