"""What is written, against the specification and another way of making it."""

import json
import uuid

import numpy as np
import pytest
import zarr

from custom.errors import DataError
from custom.scroll.blocks import halve
from custom.scroll.ome_zarr import Output, open_image, write_image
from custom.scroll.space import Space

SPACE = Space(scale=(2.0, 3.0, 4.0), units=("micrometer",) * 3)


def make(path, values, *, mask=False, chunk=4, shard=8, settings=None):
    output = Output(str(path), shape=values.shape, chunk=chunk, shard=shard, mask=mask)
    output.create(settings or {"kind": "test"}, SPACE, (10, 20, 30))
    for position in output.positions(tuple((0, size) for size in values.shape)):
        box = tuple(slice(place * shard, (place + 1) * shard) for place in position)
        output.write(position, values[box])
    for level in range(output.inner_levels, output.levels):
        for position in output.level_shards(level):
            output.write_coarse(level, position)
    return output


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(0, 255, (37, 20, 33)).astype(np.uint8)


@pytest.mark.parametrize(
    ("chunk", "shard", "levels", "inner"), [(4, 8, 4, 2), (4, 16, 4, 3), (8, 8, 3, 1), (16, 64, 2, 2)]
)
@pytest.mark.parametrize("mask", [False, True])
def test_levels_are_halves_of_the_whole(tmp_path, values, chunk, shard, levels, inner, mask):
    values = (values > 250).astype(np.uint8) if mask else values
    output = make(tmp_path / "out", values, mask=mask, chunk=chunk, shard=shard)
    assert (output.levels, output.inner_levels) == (levels, inner)
    for level in range(levels):
        array = zarr.open_array(str(tmp_path / "out"), path=str(level), mode="r")
        assert np.array_equal(array[...], values)
        assert array.chunks == (chunk,) * 3
        assert array.shards == (max(chunk, shard >> level),) * 3
        assert output.done(level) == (set(output.level_shards(level)) if level == 0 or level >= inner else set())
        values = halve(values, mask=mask)
    assert max(array.shape) <= 2 * chunk


def test_metadata_follow_the_specification(tmp_path, values):
    """https://ngff.openmicroscopy.org/0.5/#multiscale-md, rule by rule."""
    make(tmp_path / "out", values, settings={"model": {"version": "1.0"}})
    group = json.loads((tmp_path / "out" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert [(axis["name"], axis["type"], axis["unit"]) for axis in multiscale["axes"]] == [
        (name, "space", "micrometer") for name in "zyx"
    ]
    assert [dataset["path"] for dataset in multiscale["datasets"]] == ["0", "1", "2", "3"]  # finest first
    for level, dataset in enumerate(multiscale["datasets"]):
        scale, translation = dataset["coordinateTransformations"]  # one scale, then one translation
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        assert scale["scale"] == [2.0 * 2**level, 3.0 * 2**level, 4.0 * 2**level]
        # voxel (10, 20, 30) of the input is the first; a coarse voxel lies in the middle of those it stands for
        middle = (2**level - 1) / 2
        assert translation["translation"] == [2 * (10 + middle), 3 * (20 + middle), 4 * (30 + middle)]
        array = json.loads((tmp_path / "out" / dataset["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == ["z", "y", "x"]
        assert (array["data_type"], array["fill_value"]) == ("uint8", 0)
        assert [codec["name"] for codec in array["codecs"]] == ["sharding_indexed"]
    assert group["attributes"]["prediction"]["model"] == {"version": "1.0"}


def test_the_package_ome_zarr_reads_it(tmp_path, values):
    reader = pytest.importorskip("ome_zarr.reader")
    from ome_zarr.io import parse_url

    make(tmp_path / "out", values)
    (node,) = reader.Reader(parse_url(str(tmp_path / "out")))()
    assert [level.shape for level in node.data] == [(37, 20, 33), (19, 10, 17), (10, 5, 9), (5, 3, 5)]
    assert np.array_equal(np.asarray(node.data[0]), values)
    assert [axis["name"] for axis in node.metadata["axes"]] == ["z", "y", "x"]


def test_empty_shards_are_not_written(tmp_path):
    values = np.zeros((16, 8, 8), np.uint8)
    values[9, 2, 3] = 255
    output = make(tmp_path / "out", values)
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("c/*/*/*"))
    assert files == ["0/c/1/0/0", "1/c/1/0/0"]
    assert output.done(0) == {(0, 0, 0), (1, 0, 0)}


def test_lost_shards_of_all_levels_are_noticed_and_absent_ones_of_zeros_are_not(tmp_path):
    """Level 1 belongs to the four shards of level 0, level 2 has two. A single 1 among 8 voxels is 0 in level 1."""
    values = np.zeros((32, 8, 8), np.uint8)
    values[:16], values[17, 3, 3] = 100, 1
    make(tmp_path / "out", values)

    def done(level):
        output = Output(str(tmp_path / "out"), shape=values.shape, chunk=4, shard=8, mask=False)
        output.create({"kind": "test"})
        return {position[0] for position in output.done(level)}

    assert [done(level) for level in (0, 2)] == [{0, 1, 2, 3}, {0, 1}]
    (tmp_path / "out" / "1" / "c" / "1" / "0" / "0").unlink()
    assert [done(level) for level in (0, 2)] == [{0, 2, 3}, {0, 1}]
    for name in ("0/c/2", "2/c/0"):
        (tmp_path / "out" / name / "0" / "0").unlink()
    assert [done(level) for level in (0, 2)] == [{0, 3}, {1}]


def test_markers_of_earlier_versions_do_not_tell_the_levels(tmp_path, values):
    output = make(tmp_path / "out", values)
    for marker in (tmp_path / "out" / ".progress").glob("*/*"):
        marker.write_bytes(b"{}")
    for name in ("0/c/0/0/0", "1/c/0/1/0", "2/c/0/0/1"):
        (tmp_path / "out" / name).unlink()
    output.create({"kind": "test"}, SPACE, (10, 20, 30))
    lost = [set(output.level_shards(level)) - output.done(level) for level in (0, 2)]
    assert lost == [{(0, 0, 0)}, {(0, 0, 1)}]


def test_goes_on_where_the_making_was_interrupted(tmp_path, values):
    def create(**settings):
        output = Output(str(tmp_path / "out"), shape=values.shape, chunk=4, shard=8, mask=False)
        output.create({"kind": "test"} | settings)
        return output

    create().write((1, 0, 2), values[8:16, :8, 16:24])
    (tmp_path / "out" / "2" / "zarr.json").unlink()
    assert create().done(0) == {(1, 0, 2)}
    assert np.array_equal(create().array(0)[8:16, :8, 16:24], values[8:16, :8, 16:24])
    assert create().array(2).shape == (10, 5, 9)
    with pytest.raises(DataError, match="found a prediction with kind 'test', expected 'other'"):
        create(kind="other")


def test_a_marker_that_another_process_is_writing_does_not_count(tmp_path, values):
    output = make(tmp_path / "out", values)
    finished = output.done(0)
    marker = tmp_path / "out" / ".progress" / "0" / "1.0.2"
    marker.rename(marker.with_suffix(f".{uuid.uuid4().hex}.partial"))  # zarr's name until it is complete
    assert output.done(0) == finished - {(1, 0, 2)}


def test_other_data_are_not_touched(tmp_path, values):
    write_image(str(tmp_path / "image"), values, chunk=8)
    zarr.create_array(str(tmp_path / "array"), data=values)
    for name in ("image", "array"):
        with pytest.raises(DataError, match="no prediction of a scroll"):
            make(tmp_path / name, values)


def test_image_there_and_back(tmp_path, values):
    write_image(str(tmp_path / "a"), values, chunk=8)
    image = open_image(str(tmp_path / "a"))
    assert np.array_equal(image.array[...], values)
    assert image.space == Space()
    assert image.array.chunks == (8, 8, 8)


@pytest.mark.parametrize("mask", [False, True])
def test_images_have_a_pyramid(tmp_path, values, mask):
    write_image(str(tmp_path / "a"), values, chunk=5, mask=mask)
    group = zarr.open_group(str(tmp_path / "a"), mode="r")
    paths = [dataset["path"] for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]]
    assert sorted(paths) == sorted(group.array_keys()) == ["0", "1", "2"]  # 37, 19, 10
    for path in paths:
        assert np.array_equal(group[path][...], values)
        values = halve(values, mask=mask)


def test_bad_images_are_refused_in_one_line(tmp_path, values):
    zarr.create_array(str(tmp_path / "float"), data=values.astype(np.float32))
    zarr.create_array(str(tmp_path / "plane"), data=values[0])
    zarr.create_group(str(tmp_path / "group")).create_group("inner")
    (tmp_path / "file").write_text("hello")
    expected = {
        "float": "found float32 (37, 20, 33), expected a uint8 array of three axes",
        "plane": "found uint8 (20, 33), expected a uint8",
        "group": "without multiscales, with ['inner']",
        "file": "found nothing that opens",
        "absent": "found nothing that opens",
    }
    for name, message in expected.items():
        with pytest.raises(DataError) as caught:
            open_image(str(tmp_path / name))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
