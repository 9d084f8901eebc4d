"""Axes and transformations against the specification's words, worked out by hand."""

import pytest

from custom.errors import DataError
from custom.scroll.space import Space, find_image, find_order, read_space

SHAPE = (5, 6, 7)


def image(axes="zyx", steps=(), outer=(), version="0.4", **changes):
    axes = [{"name": name, "type": "space"} for name in axes] if isinstance(axes, str) else axes
    level = {"path": "0", "coordinateTransformations": list(steps)}
    entry = {"axes": axes, "datasets": [level], "coordinateTransformations": list(outer), "version": version}
    return find_image({"multiscales": [{k: v for k, v in (entry | changes).items() if v is not None}]}, "a.zarr")


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def shift(*values):
    return {"type": "translation", "translation": list(values)}


@pytest.mark.parametrize(
    ("names", "shape", "order"),
    [
        ("zyx", SHAPE, (0, 1, 2)),
        ("xyz", SHAPE, (2, 1, 0)),
        ("yzx", SHAPE, (1, 0, 2)),
        ("ZYX", SHAPE, (0, 1, 2)),
        ("tczyx", (1, 1, *SHAPE), (2, 3, 4)),
        ("xyzc", (*SHAPE, 1), (2, 1, 0)),
    ],
)
def test_axes_are_found_by_name(names, shape, order):
    assert find_order(names, shape, "a.zarr") == order
    assert read_space(image(list(names), version="0.3"), shape, None, "a.zarr").order == order


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("zyx", (5, 6)), ("zzx", SHAPE), ("abc", SHAPE), ("czyx", (2, *SHAPE)), ("tzyx", (0, *SHAPE)), ({"z": 0}, SHAPE)],
)
def test_other_axes_are_refused_by_name(axes, shape):
    with pytest.raises(DataError, match=r"^a\.zarr: found .*ax[ei]s"):
        read_space(image(axes), shape, None, "a.zarr")


def test_old_versions_had_no_axes(caplog):
    assert read_space(image(None, version="0.1"), (1, 1, *SHAPE), None, "a.zarr").order == (2, 3, 4)
    assert not caplog.records
    assert read_space(image(None, version=None), SHAPE, None, "a.zarr").order == (0, 1, 2)
    assert "names no axes" in caplog.text
    with pytest.raises(DataError, match=r"version 0\.4 without axes"):
        read_space(image(None), SHAPE, None, "a.zarr")


def test_transformations_follow_one_another():
    """Voxel i along x of (x, y, z) lies at 10 * (4 * i + 5) + 1."""
    described = image(
        "xyz", [scale(4, 3, 2), shift(5, 6, 7)], [{"type": "identity"}, scale(10, 10, 10), shift(1, 2, 3)]
    )
    assert read_space(described, SHAPE, None, "a.zarr") == Space((2, 1, 0), (20, 30, 40), (73, 62, 51))


def test_units_are_those_of_each_axis():
    axes = [{"name": "x", "unit": "nanometer"}, {"name": "z"}, {"name": "y", "unit": "micrometer"}]
    assert read_space(image(axes), SHAPE, None, "a.zarr").units == (None, "micrometer", "nanometer")


@pytest.mark.parametrize(
    "step",
    [
        scale(1, 2),
        scale(0, 1, 1),
        scale(-1, 1, 1),
        scale(float("nan"), 1, 1),
        scale("1", 1, 1),
        scale(True, 1, 1),
        {"type": "scale", "path": "s"},
        {"type": "affine", "affine": [[1, 0, 0, 0]]},
        {},
    ],
)
def test_transformations_that_cannot_be_followed_are_refused(step):
    with pytest.raises(DataError, match="found the coordinate transformation"):
        read_space(image(steps=[step]), SHAPE, None, "a.zarr")


def test_dimension_names_must_not_contradict():
    assert read_space(image(), SHAPE, ["z", "y", "x"], "a").order == (0, 1, 2)
    assert read_space(image(), SHAPE, ["d0", "d1", "d2"], "a").order == (0, 1, 2)
    with pytest.raises(DataError, match=r"with dimensions \['x', 'y', 'z'\]"):
        read_space(image(), SHAPE, ["x", "y", "z"], "a")


def test_the_first_level_is_the_finest():
    coarse, fine = ({"path": str(n), "coordinateTransformations": [scale(n, n, n)]} for n in (2, 1))
    assert image(datasets=[fine, coarse])["path"] == "1"
    assert read_space(image(datasets=[fine, coarse]), SHAPE, None, "a").scale == (1, 1, 1)
    with pytest.raises(DataError, match="level '1' finer than the first"):
        read_space(image(datasets=[coarse, fine]), SHAPE, None, "a")


@pytest.mark.parametrize(
    "changes",
    [{"version": "0.6"}, {"version": 4}, {"datasets": []}, {"datasets": [{"path": 0}]}, {"datasets": [{"path": ""}]}],
)
def test_what_is_no_image_is_refused(changes):
    with pytest.raises(DataError, match=r"^a\.zarr: found"):
        image(**changes)


def test_of_several_images_the_first_is_taken_with_a_word(caplog):
    entry = {"datasets": [{"path": "0"}]}
    assert find_image({"multiscales": [entry, entry]}, "a.zarr")["path"] == "0"
    assert "2 images in one group" in caplog.text
