"""Volumes against numpy's transposition of what was written, and chunks that were damaged by hand."""

import json
import shutil

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, GZip, Zlib
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from custom.errors import DataError
from custom.scroll.ome_zarr import open_image
from custom.scroll.volume import LOOKED_FOR, Volume

SHAPE = (9, 8, 7)


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(1, 255, SHAPE).astype(np.uint8)


def write(path, values, axes="zyx", **options):
    """An OME-Zarr 0.4 or 0.5 of ``values`` (z, y, x), its axes in another order."""
    turned = values[(None,) * (len(axes) - 3)].transpose(
        ["".join(sorted(axes, key="tczyx".index)).index(a) for a in axes]
    )
    options = {"chunks": tuple(min(4, n) for n in turned.shape), "zarr_format": 2, "fill_value": 0} | options
    group = zarr.create_group(str(path), zarr_format=options["zarr_format"])
    zarr.create_array(str(path), name="0", data=turned, **options)
    entry = {"axes": [{"name": name, "type": "space"} for name in axes], "datasets": [{"path": "0"}]}
    if options["zarr_format"] == 2:
        group.attrs["multiscales"] = [entry | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry]}
    return path


@pytest.mark.parametrize("axes", ["zyx", "xyz", "yzx", "xzy", "czyx", "txyzc"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_voxels_are_given_as_z_y_x(tmp_path, values, axes, zarr_format):
    options = {"zarr_format": 2, "order": "F"} if zarr_format == 2 else {"zarr_format": 3}
    volume = open_image(str(write(tmp_path / "a", values, axes, **options))).array
    assert (volume.shape, volume.chunks) == (SHAPE, (4, 4, 4))
    assert np.array_equal(volume[...], values)
    assert np.array_equal(volume[2:7, :, 1:3], values[2:7, :, 1:3])
    assert np.array_equal(volume[:, 3, :], values[:, 3])
    assert np.array_equal(volume[5, 0:8, :], values[5])


def test_chunks_are_those_along_z_y_x(tmp_path, values):
    volume = open_image(str(write(tmp_path / "a", values, "xyz", chunks=(2, 3, 4)))).array
    assert volume.chunks == (4, 3, 2)
    keys, total = volume.sample(((0, 4), (0, 3), (2, 5)))  # x from 2 to 5 lies in its second and third chunk
    assert (keys, total) == (["0/1.0.0", "0/2.0.0"], 2)


def test_a_large_volume_is_looked_through_in_parts():
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(10**5,) * 3, chunks=(100,) * 3, dtype="u1")
    keys, total = Volume(array, (0, 1, 2), "a").sample()
    assert total == 10**9
    assert 0.99 * LOOKED_FOR < len(set(keys)) <= LOOKED_FOR
    first = np.array([[int(n) for n in key.split("/")[1:]] for key in keys])
    assert (np.histogram(first[:, 0], 10, (0, 1000))[0] > 0.05 * LOOKED_FOR).all()


def test_names_of_a_bare_array_are_honoured(tmp_path, values, caplog):
    zarr.create_array(str(tmp_path / "v3"), data=values.T, dimension_names=["x", "y", "z"])
    zarr.create_array(str(tmp_path / "v2"), data=values.T, zarr_format=2, attributes={"_ARRAY_DIMENSIONS": list("xyz")})
    for name in ("v3", "v2"):
        assert np.array_equal(open_image(str(tmp_path / name)).array[...], values)
    assert not caplog.records
    zarr.create_array(str(tmp_path / "bare"), data=values, dimension_names=["dim_0", "dim_1", "dim_2"])
    assert np.array_equal(open_image(str(tmp_path / "bare")).array[...], values)
    assert "names no axes; they are taken for z, y, x" in caplog.text


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("consolidated", [False, True])
def test_a_separator_that_is_not_stated_is_found(tmp_path, values, separator, consolidated):
    path = write(tmp_path / "a", values, chunk_key_encoding={"name": "v2", "separator": separator})
    if consolidated:
        zarr.consolidate_metadata(str(path))
    for file in path.rglob(".z*a*"):
        file.write_text(json.dumps(_without(json.loads(file.read_text()), "dimension_separator")))
    assert np.array_equal(open_image(str(path)).array[...], values)


def _without(content, key):
    if not isinstance(content, dict):
        return content
    return {name: _without(value, key) for name, value in content.items() if name != key}


SHARDS = {"zarr_format": 3, "chunks": (2, 2, 2), "shards": (4, 4, 4)}
CUT = {
    "blosc": {"compressors": Blosc()},
    "gzip": {"compressors": GZip()},
    "zlib": {"compressors": Zlib()},
    "lz4": {"compressors": LZ4()},
    "raw": {"compressors": None},
    "v3 blosc": {"zarr_format": 3, "compressors": BloscCodec()},
    "v3 zstd": {"zarr_format": 3, "compressors": ZstdCodec()},
    "shards": SHARDS,
}


@pytest.mark.parametrize("options", CUT.values(), ids=CUT)
@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:20], lambda b: b"", lambda b: b"<html>404</html>"])
def test_a_broken_chunk_is_named(tmp_path, values, options, damage):
    """Blosc itself reads behind the end of a chunk that was cut off."""
    path = write(tmp_path / "a", values, **options)
    key = "0/1.0.1" if options.get("zarr_format") != 3 else "0/c/1/0/1"
    (path / key).write_bytes(damage((path / key).read_bytes()))
    volume = open_image(str(path)).array
    with pytest.raises(DataError) as caught:
        volume[...]
    assert str(caught.value).startswith(f"{path}/{key}: found a chunk that cannot be read (")
    assert "\n" not in str(caught.value)
    assert np.array_equal(volume[0:4, 4:8, 0:4], values[0:4, 4:8, 0:4])  # the others can be had


CHECKED = {
    "gzip": {"compressors": GZip()},
    "v3 gzip": {"zarr_format": 3, "compressors": GzipCodec()},
    "crc32c": {"zarr_format": 3, "compressors": [ZstdCodec(), Crc32cCodec()]},
    "zstd with its checksum": {"zarr_format": 3, "compressors": ZstdCodec(checksum=True)},
    "crc32c in shards": {
        "zarr_format": 3,
        "chunks": (4, 4, 4),
        "serializer": ShardingCodec(chunk_shape=(2, 2, 2), codecs=[zarr.codecs.BytesCodec(), Crc32cCodec()]),
        "compressors": None,
    },
}


@pytest.mark.parametrize("options", CHECKED.values(), ids=CHECKED)
def test_a_flipped_bit_is_noticed_where_the_codec_has_a_checksum(tmp_path, values, options):
    path = write(tmp_path / "a", values, **options)
    key = "0/1.1.0" if options.get("zarr_format") != 3 else "0/c/1/1/0"
    content = bytearray((path / key).read_bytes())
    content[len(content) // 4] ^= 1
    (path / key).write_bytes(content)
    with pytest.raises(DataError, match=rf"/{key}: found a chunk that cannot be read"):
        open_image(str(path)).array[...]


def test_a_failure_that_passes_costs_one_more_read(tmp_path, values, monkeypatch):
    volume = open_image(str(write(tmp_path / "a", values))).array
    original, failures = zarr.Array.__getitem__, iter([True])

    def now_and_then(array, selection):
        if next(failures, False):
            raise OSError("connection lost")
        return original(array, selection)

    monkeypatch.setattr(zarr.Array, "__getitem__", now_and_then)
    assert np.array_equal(volume[...], values)


def test_missing_chunks_are_counted_and_read_as_zarr_does(tmp_path, values):
    path = write(tmp_path / "a", values, fill_value=9, chunk_key_encoding={"name": "v2", "separator": "/"})
    shutil.rmtree(path / "0" / "1")
    image = open_image(str(path))
    expected = values.copy()
    expected[4:8] = 9
    assert np.array_equal(image.array[...], expected)
    assert image.array.fill_value == 9
    assert image.store.missing == {f"0/1/{y}/{x}" for y in (0, 1) for x in (0, 1)}


@pytest.mark.parametrize("kind", ["bool", "int8", "uint16", ">u2", "float32", "float64", "int32"])
def test_other_types_are_refused_by_name(tmp_path, values, kind):
    path = write(tmp_path / "a", values.astype(kind))
    with pytest.raises(DataError, match=rf"found {np.dtype(kind)} \(9, 8, 7\), expected a uint8 array"):
        open_image(str(path))


@pytest.mark.parametrize(
    "change",
    [{"shape": [0, 8, 7]}, {"chunks": [0, 4, 4]}, {"shape": [10**9] * 3}, {"shape": [-1, 8, 7]}, {"zarr_format": 3}],
)
def test_damaged_metadata_are_refused(tmp_path, values, change):
    file = write(tmp_path / "a", values) / "0" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=r"a: found"):
        open_image(str(tmp_path / "a"))
