"""The cache: what it stores, that it survives kills, and what it refuses."""

import errno
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from custom.data import cache as cache_module
from custom.data import cached_volume
from custom.data.cache import VolumeCache
from custom.data.cached_volume import CachedVolume, as_stored, label_histogram, sample_foreground
from custom.data.cases import find_cases
from custom.data.volumes import read_volume, to_canonical
from custom.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def ct(tmp_path):
    """Three CT cases of different shape and orientation in LiTS names; case 3 is LPS."""
    rng = np.random.default_rng(0)
    for number, (shape, signs) in enumerate(
        [((9, 8, 7), (1, 1, 1)), ((6, 8, 5), (1, -1, 1)), ((7, 7, 4), (-1, -1, 1))]
    ):
        image = rng.integers(-3024, 3071, shape).astype(np.int16)
        label = rng.integers(0, 3, shape).astype(np.uint8)
        affine = np.diag([*(np.array([0.7, 0.8, 2.5]) * signs), 1.0])
        save(tmp_path / "data" / f"volume-{number + 1}.nii.gz", image, affine)
        save(tmp_path / "data" / f"segmentation-{number + 1}.nii.gz", label, affine)
    return tmp_path / "data"


@pytest.fixture
def scroll(tmp_path):
    """Three labelled stacks in the Kaggle layout."""
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(1)
    for name in ("1", "2", "3"):
        for folder, high in (("train_images", 256), ("train_labels", 3)):
            (tmp_path / "scroll" / folder).mkdir(parents=True, exist_ok=True)
            stack = rng.integers(0, high, (6, 7, 9)).astype(np.uint8)
            tifffile.imwrite(tmp_path / "scroll" / folder / f"{name}.tif", stack, photometric="minisblack")
    return tmp_path / "scroll"


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def make(data, tmp_path, modality="ct", **options):
    cases = options.pop("cases", None) or find_cases(data)
    options = {"cache_dir": tmp_path / "cache", "modality": modality, "progress": False, **options}
    return VolumeCache(cases=cases, **options)


def snapshot(folder):
    """Content of every array file below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.npy"))}


def stamps(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json")}


def test_ct_is_canonical_int16_and_invertible(ct, tmp_path):
    cache = make(ct, tmp_path)
    assert [volume.id for volume in cache] == ["volume-1", "volume-2", "volume-3"] and len(cache) == 3
    for number, volume in enumerate(cache, 1):
        source = nibabel.load(ct / f"volume-{number}.nii.gz")
        i, j, k = source.shape
        # By hand: SPL from R/L, A/P, S axes is (k, j or its reverse, i or its reverse).
        flip = {1: np.s_[:, ::-1, ::-1], 2: np.s_[:, :, ::-1], 3: np.s_[:, :, :]}[number]
        expected = np.asarray(source.dataobj).transpose(2, 1, 0)[flip]
        assert isinstance(volume.image, np.memmap) and volume.image.dtype == np.int16
        assert not volume.image.flags.writeable and volume.image.flags.c_contiguous
        np.testing.assert_array_equal(volume.image, expected)
        label = nibabel.load(ct / f"segmentation-{number}.nii.gz")
        np.testing.assert_array_equal(volume.label, np.asarray(label.dataobj).transpose(2, 1, 0)[flip])
        assert volume.label.dtype == np.uint8 and volume.shape == (k, j, i)
        assert volume.original_shape == (i, j, k)
        np.testing.assert_allclose(volume.spacing, [2.5, 0.8, 0.7], rtol=1e-6)
        np.testing.assert_allclose(volume.original_affine, source.affine)
        assert "".join(nibabel.aff2axcodes(volume.affine)) == "SPL"
        assert (volume.image_path, volume.label_path) == (
            str(ct / f"volume-{number}.nii.gz"),
            str(ct / f"segmentation-{number}.nii.gz"),
        )


def test_scroll_is_kept_as_it_is(scroll, tmp_path):
    cache = make(scroll, tmp_path, "scroll")
    for volume in cache:
        expected = read_volume(scroll / "train_images" / f"{volume.id}.tif").array
        np.testing.assert_array_equal(volume.image, expected)
        assert volume.image.dtype == np.uint8
        np.testing.assert_array_equal(volume.affine, np.eye(4))
        np.testing.assert_array_equal(volume.label, read_volume(scroll / "train_labels" / f"{volume.id}.tif").array)


@pytest.mark.parametrize(
    ("modality", "values", "dtype", "expected"),
    [
        ("scroll", [0, 255], np.uint8, np.uint8),
        ("scroll", [0, 200], np.uint16, np.uint16),
        ("scroll", [0, 255], np.int16, np.uint8),
        ("scroll", [0, 256], np.int32, np.uint16),
        ("scroll", [-1, 5], np.int16, np.float32),
        ("scroll", [0, 0.5], np.float32, np.float32),
        ("ct", [-3024, 3071], np.int32, np.int16),
        ("ct", [-3024, 3071], np.float64, np.int16),
        ("ct", [0, 255], np.uint8, np.int16),
        ("ct", [-32768, 32767], np.float32, np.int16),
        ("ct", [0, 32768], np.uint16, np.float32),
        ("ct", [0, 0.5], np.float64, np.float32),
        ("ct", [0, 0.1], np.float64, np.float64),
        ("ct", [0, 2**24 + 1], np.int32, np.float64),
    ],
)
def test_narrowest_lossless_type(modality, values, dtype, expected):
    array = np.array(values, dtype).reshape(1, 1, 2)
    stored = as_stored(array, modality)
    assert stored.dtype == expected
    np.testing.assert_array_equal(stored.astype(np.float64), array.astype(np.float64))


def test_wide_types_and_odd_affines_are_remarked_and_recorded(tmp_path, caplog):
    save(tmp_path / "data/volume-1.nii", np.full((3, 4, 5), 40.5))
    save(tmp_path / "data/segmentation-1.nii", np.zeros((3, 4, 5), np.int32), np.diag([2, 2, 2, 1]))
    cache = make(tmp_path / "data", tmp_path)
    for text in ("stored as float32", "its affine differs from the image's by up to 4.0 voxels"):
        assert text in caplog.text and any(text in note for note in cache[0].manifest["notes"])


def warnings(caplog):
    """What was said of values and affines since the last time."""
    said = [record.getMessage() for record in caplog.records if record.name == "custom.data.plausibility"]
    caplog.clear()
    return said


def test_a_file_of_other_values_is_told_at_every_start(tmp_path, caplog):
    hu = np.full((4, 5, 6), 50, np.int16)
    hu[:2] = -1000
    save(tmp_path / "data/volume-1.nii", hu, np.diag([0.7, 0.7, 3, 1]))
    save(tmp_path / "data/volume-2.nii", hu + 1024, np.diag([0.7, 0.7, 3, 1]))
    cases = [{"id": str(n), "image": str(tmp_path / f"data/volume-{n}.nii"), "label": None} for n in (1, 2)]
    values = make(None, tmp_path, cases=cases)[0].values
    assert values == (-1000, 50, True, 0.5, 0.5, 0)
    for _ in range(2):  # when the cache is built, and when it is there
        (said,) = warnings(caplog)
        assert said.startswith(f"{cases[1]['image']}: found values from 24 to 1074, none of them of air")
        assert "\n" not in said and "--trust_values True" in said
        make(None, tmp_path, cases=cases)
    warnings(caplog)
    make(None, tmp_path, cases=cases, trust_values=True)
    assert not warnings(caplog)


@pytest.mark.parametrize("ready", [False, True])
def test_scaled_files_are_refused_unless_they_are_trusted(tmp_path, ready):
    save(tmp_path / "data/volume-1.nii", np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4))
    cases = [{"id": "1", "image": str(tmp_path / "data/volume-1.nii"), "label": None}]
    if ready:
        assert make(None, tmp_path, cases=cases, trust_values=True)[0].values.highest == 1
    with pytest.raises(DataError, match=r"volume-1.nii: found values from 0 to 1, expected CT in Hounsfield units"):
        make(None, tmp_path, cases=cases)


def test_grey_values_are_judged_where_they_are_given(scroll, tmp_path):
    assert len(make(scroll, tmp_path, "scroll", grey_values=[0, 255])) == 3
    assert len(make(scroll, tmp_path, "scroll")) == 3
    with pytest.raises(DataError, match=r"1.tif: found values from \d to 25\d, expected grey values from 0 to 100; "):
        make(scroll, tmp_path, "scroll", grey_values=[0, 100])
    assert len(make(scroll, tmp_path, "scroll", grey_values=[0, 100], trust_values=True)) == 3


def test_an_identity_affine_is_told_at_every_start(tmp_path, caplog):
    hu = np.full((4, 5, 6), 50, np.int16)
    hu[:2] = -1000
    save(tmp_path / "data/volume-28.nii", hu)
    cases = [{"id": "28", "image": str(tmp_path / "data/volume-28.nii"), "label": None}]
    for _ in range(2):
        make(None, tmp_path, cases=cases)
        (said,) = warnings(caplog)
        assert said.startswith(f"{cases[0]['image']}: found the identity affine")
        assert "voxels of 1 mm in RAS order" in said


def test_manifest_is_complete(ct, tmp_path):
    volume = make(ct, tmp_path)[0]
    manifest = json.loads(Path(volume.folder, "manifest.json").read_text())
    source = ct / "volume-1.nii.gz"
    assert manifest["format"] == cached_volume.FORMAT
    assert manifest["sources"]["image"] == {
        "path": str(source),
        "size": source.stat().st_size,
        "mtime_ns": source.stat().st_mtime_ns,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert manifest["arrays"]["image"]["dtype"] == "<i2" and manifest["arrays"]["image"]["shape"] == [7, 8, 9]
    assert re.fullmatch(r"volume-1-[0-9a-f]{8}", Path(volume.folder).name)
    np.testing.assert_array_equal(np.load(Path(volume.folder, "image.npy")), volume.image)  # plain .npy for others


def test_histogram_and_foreground_against_the_label(ct, tmp_path):
    for volume in make(ct, tmp_path):
        label = np.asarray(volume.label)
        assert volume.label_histogram.dtype == np.int64
        for z, row in enumerate(volume.label_histogram):
            assert row.tolist() == [(label[z] == value).sum() for value in (0, 1, 2)]
        assert set(volume.foreground) == {1, 2}
        for value, indices in volume.foreground.items():
            assert indices.dtype == np.int32
            np.testing.assert_array_equal(indices, np.argwhere(label == value))  # fewer than the limit: all of them


def test_label_histogram_by_hand():
    label = np.array([[[0, 1, 1]], [[2, 2, 2]], [[0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(label_histogram(label, 3), [[1, 2, 0], [0, 0, 3], [3, 0, 0]])


def test_foreground_sample_is_even_and_repeatable():
    label = np.zeros((40, 30, 30), np.uint8)
    label[5:10] = 1  # 4500 voxels
    label[20:25, :15] = 1  # 2250 voxels
    label[30, 3, 4] = 2
    histogram = label_histogram(label, 3)
    sample = sample_foreground(label, histogram, samples=3000)
    assert sample[2].tolist() == [[30, 3, 4]]
    assert len(np.unique(sample[1], axis=0)) == 3000 and (label[tuple(sample[1].T)] == 1).all()
    # Two thirds lie in the first slab; the hypergeometric standard deviation of the count is 19.2.
    assert abs((sample[1][:, 0] < 10).sum() - 2000) < 5 * 19.2
    np.testing.assert_array_equal(sample_foreground(label, histogram, samples=3000)[1], sample[1])


def test_unlabelled_volumes(ct, tmp_path):
    cases = [{**case, "label": None} for case in find_cases(ct)]
    volume = make(ct, tmp_path, cases=cases)[1]
    assert volume.label is None and not volume.has_label and volume.label_path is None
    assert volume.label_histogram.shape == (5, 0) and volume.foreground == {}


def test_pickle_is_small_and_opens_its_own_maps(ct, tmp_path):
    cache = make(ct, tmp_path)
    volume = cache[0]
    image, _, _ = volume.image, volume.label_histogram, volume.foreground
    content = pickle.dumps(cache)
    assert len(content) < 1500
    np.testing.assert_array_equal(pickle.loads(content)[0].image, image)
    assert volume.image is not image  # nothing is held open


def test_same_content_is_reused_across_objects_and_subsets(ct, tmp_path):
    make(ct, tmp_path)
    before = stamps(tmp_path / "cache")
    part = make(ct, tmp_path, cases=find_cases(ct)[1:])
    assert [volume.id for volume in part] == ["volume-2", "volume-3"]
    assert stamps(tmp_path / "cache") == before


def test_changed_source_is_rebuilt_alone(ct, tmp_path, caplog):
    make(ct, tmp_path)
    before = stamps(tmp_path / "cache")
    image = nibabel.load(ct / "volume-2.nii.gz")
    save(ct / "volume-2.nii.gz", np.zeros(image.shape, np.int16), image.affine)
    cache = make(ct, tmp_path)
    after = stamps(tmp_path / "cache")
    assert [name for name in after if after[name] != before[name]] == [Path(cache[1].folder).name]
    assert not cache[1].image.any() and "was made from another version of its source" in caplog.text


@pytest.mark.parametrize("kind", ["volume", "segmentation"])
@pytest.mark.parametrize("seconds", [0, -1e6])
def test_another_file_of_the_same_size_with_the_same_or_an_older_time_is_noticed(ct, tmp_path, kind, seconds):
    """As cp -p brings it; NIfTI that is not packed has the size of its voxels, whatever is in it."""
    for path in ct.glob("*.nii.gz"):
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    make(ct, tmp_path)
    source = ct / f"{kind}-2.nii"
    image, before = nibabel.load(source), source.stat()
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, image.get_data_dtype()), None, image.header), source)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + int(seconds * 1e9)))
    assert source.stat().st_size == before.st_size
    volume = make(ct, tmp_path)[1]
    assert not (volume.image if kind == "volume" else volume.label).any()


def test_manifest_of_another_format_version_is_rebuilt(ct, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cached_volume, "FORMAT", 0)
    make(ct, tmp_path)
    monkeypatch.undo()
    cache = make(ct, tmp_path)
    assert caplog.text.count("has format version 0, this program writes 2; it is rebuilt") == 3
    assert all(volume.manifest["format"] == 2 for volume in cache)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}'])
def test_damaged_manifest_is_rebuilt(ct, tmp_path, content, caplog):
    folder = Path(make(ct, tmp_path)[0].folder)
    (folder / "manifest.json").write_text(content)
    assert make(ct, tmp_path)[0].shape == (7, 8, 9)
    assert f"{folder}: the cached volume" in caplog.text


def test_file_cut_short_is_noticed_when_read_and_rebuilt_at_the_next_start(ct, tmp_path, caplog):
    volume = make(ct, tmp_path)[0]
    expected = np.array(volume.image)
    path = Path(volume.folder, "image.npy")
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(DataError, match=rf"image\.npy: found {size - 1} bytes, expected {size} bytes"):
        _ = volume.image
    again = make(ct, tmp_path)[0]
    np.testing.assert_array_equal(again.image, expected)
    assert f"{size - 1} bytes instead of {size}; it is rebuilt" in caplog.text
    path.unlink()
    with pytest.raises(DataError, match="found 0 bytes"):
        _ = again.image


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "foreground.npy"])
def test_flipped_byte_is_found_by_verify(ct, tmp_path, name):
    cache = make(ct, tmp_path)
    assert cache.verify() == []
    path = Path(cache[1].folder, name)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert make(ct, tmp_path).verify() == [str(path)]
    shutil.rmtree(path.parent)
    assert make(ct, tmp_path).verify() == []


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((3, 4, 5), np.int16), np.full((3, 4, 5), 3, np.uint8), "label values 3, expected only 0, 1, 2"),
        (np.zeros((3, 4, 5), np.int16), np.full((3, 4, 5), 0.5, np.float32), "label values 0.5"),
        (np.zeros((3, 4, 5), np.int16), np.zeros((3, 4, 6), np.uint8), r"shape \(3, 4, 6\), expected the image's"),
        (np.full((3, 4, 5), np.nan, np.float32), np.zeros((3, 4, 5), np.uint8), "60 NaN or infinite voxels"),
        (np.zeros((3, 4, 5, 2), np.int16), np.zeros((3, 4, 5), np.uint8), "2 frames"),
    ],
)
def test_refusals_leave_nothing_half_done(tmp_path, image, label, message):
    save(tmp_path / "data/volume-7.nii.gz", image)
    save(tmp_path / "data/segmentation-7.nii.gz", label)
    with pytest.raises(DataError, match=message) as refusal:
        make(tmp_path / "data", tmp_path)
    assert re.search(r"(volume|segmentation)-7\.nii\.gz: found", str(refusal.value))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


def test_truncated_source_is_refused_and_finished_volumes_stay(ct, tmp_path):
    path = ct / "volume-2.nii.gz"
    save(path, np.random.default_rng(0).integers(-1000, 1000, (30, 30, 30)).astype(np.int16))
    save(ct / "segmentation-2.nii.gz", np.zeros((30, 30, 30), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"volume-2\.nii\.gz: found a damaged or cut-off file"):
        make(ct, tmp_path)
    assert [name[:8] for name in stamps(tmp_path / "cache")] == ["volume-1"]
    path.write_bytes(content)
    assert len(make(ct, tmp_path)) == 3


def test_odd_but_usable_types_are_accepted(tmp_path):
    save(tmp_path / "data/volume-1.nii.gz", np.arange(60).reshape(3, 4, 5, 1).astype(np.int32))
    save(tmp_path / "data/segmentation-1.nii.gz", np.ones((3, 4, 5, 1), np.float64))
    volume = make(tmp_path / "data", tmp_path)[0]
    assert (volume.image.dtype, volume.label.dtype, volume.shape) == (np.int16, np.uint8, (5, 4, 3))


def test_missing_source_and_bad_options(ct, tmp_path):
    cases = find_cases(ct)
    (ct / "volume-3.nii.gz").unlink()
    with pytest.raises(DataError, match=r"volume-3\.nii\.gz: found no such file"):
        make(ct, tmp_path, cases=cases)
    with pytest.raises(ValueError, match="modality"):
        make(ct, tmp_path, modality="mri")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="found a folder that cannot be made"):
        make(ct, tmp_path, cache_dir=tmp_path / "file" / "cache")


def test_free_disk_is_checked_before_the_first_byte(ct, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    # 9*8*7 + 6*8*5 + 7*7*4 voxels, 3 bytes each
    with pytest.raises(
        DataError, match=r"found 2e-06 GB free, expected 2\.82e-06 GB for 3 more volumes; set cache_dir"
    ):
        make(ct, tmp_path)
    assert stamps(tmp_path / "cache") == {}


def test_size_limit(ct, tmp_path):
    with pytest.raises(DataError, match=r"GB needed for the cache with 3 more volumes, expected at most max_size_gb"):
        make(ct, tmp_path, max_size_gb=2e-6)
    make(ct, tmp_path, max_size_gb=4e-6)
    make(ct, tmp_path, max_size_gb=2e-6)  # nothing to build: nothing to refuse


def test_no_space_left(ct, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cached_volume, "_write_array", full)
    with pytest.raises(DataError, match=r"found a full disk \(No space left on device"):
        make(ct, tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


def test_withdrawn_cases_are_left_out_with_a_warning(tmp_path, caplog):
    tifffile = pytest.importorskip("tifffile")
    for name, values in {"1": 3, "2": 3, "3": 2, "4": 3}.items():
        for folder in ("train_images", "train_labels"):
            (tmp_path / "k" / folder).mkdir(parents=True, exist_ok=True)
            stack = (np.arange(24).reshape(2, 3, 4) % values).astype(np.uint8)
            tifffile.imwrite(tmp_path / "k" / folder / f"{name}.tif", stack, photometric="minisblack")
    assert [volume.id for volume in make(tmp_path / "k", tmp_path, "scroll", ignore_label=2)] == ["1", "2", "4"]
    assert "1 cases have no label 2 though most do, and are left out: 3" in caplog.text
    assert len(make(tmp_path / "k", tmp_path, "scroll")) == 4
    only = [case for case in find_cases(tmp_path / "k") if case["id"] == "3"]
    assert len(make(tmp_path / "k", tmp_path, "scroll", cases=only, ignore_label=2)) == 1


def test_ids_that_are_no_file_names(ct, tmp_path):
    cases = [{**case, "id": f"a/b: {case['id']}"} for case in find_cases(ct)]
    cache = make(ct, tmp_path, cases=cases)
    assert cache[0].id == "a/b: volume-1" and Path(cache[0].folder).parent == tmp_path / "cache"


@pytest.mark.slow
def test_processes_build_the_same_and_pass_errors_on(ct, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_ONE_PROCESS_BYTES", 0)
    make(ct, tmp_path, num_workers=2, cache_dir=tmp_path / "two")
    make(ct, tmp_path, num_workers=0, cache_dir=tmp_path / "one")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    save(ct / "segmentation-2.nii.gz", np.full((6, 8, 5), 9, np.uint8), np.diag([0.7, -0.8, 2.5, 1]))
    save(ct / "segmentation-3.nii.gz", np.zeros((7, 7, 4), np.uint8), np.diag([-0.7, -0.8, 2.5, 1]))
    with pytest.raises(DataError, match=r"segmentation-2\.nii\.gz: found label values 9"):
        make(ct, tmp_path, num_workers=2, cache_dir=tmp_path / "two")


# One process imports once, and forks what is to be killed.
BUILDS = """
import json, os, random, resource, shutil, signal, sys, time
from multiprocessing import get_context
from pathlib import Path
from custom.data import cache
from custom.data.cases import find_cases

data, folder = sys.argv[1], Path(sys.argv[2])
cases = find_cases(data)
result = {}

def start(name, before=lambda: None):
    child = os.fork()
    if child:
        return child
    try:
        before()
        cache.VolumeCache(cases=cases, cache_dir=folder / name, modality="ct", progress=False)
        os._exit(0)
    except BaseException as error:
        (folder / "error").write_text(str(error))
        os._exit(1)

def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

begin = time.monotonic()
assert code(start("reference")) == 0
whole = time.monotonic() - begin

# Kill at random moments, until some kills fell into the middle of a volume; begin anew when a build got through.
generator, result["killed"], result["partial"] = random.Random(0), 0, 0
while result["partial"] < 4 and time.monotonic() - begin < 60:
    child = start("killed")
    time.sleep(generator.uniform(0, whole))
    os.kill(child, signal.SIGKILL)
    if code(child) == 0:
        shutil.rmtree(folder / "killed")
        continue
    result["killed"] += 1
    result["partial"] += any(folder.glob("killed/*.partial-*"))
assert code(start("killed")) == 0

# Three at once, counting who builds what.
def count():
    write = cache.build_volume
    def counted(place, *arguments, **options):
        with open(folder / "builds", "a") as file:
            print(place.name, file=file)
        return write(place, *arguments, **options)
    cache.build_volume = counted
result["codes"] = [code(child) for child in [start("shared", count) for _ in range(3)]]
result["builds"] = (folder / "builds").read_text().split()

# A limit on file sizes makes writes fail as a full disk does.
def limit():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
result["full"] = code(start("full", limit)), (folder / "error").read_text()

# A builder whose parent is killed.
def leave_a_builder():
    process = get_context("fork").Process(target=lambda: (cache.end_with_parent(), time.sleep(60)))
    process.start()
    (folder / "builder").write_text(str(process.pid))
    os.kill(os.getpid(), signal.SIGKILL)
code(start("orphan", leave_a_builder))
builder = Path("/proc", (folder / "builder").read_text(), "stat")
def alive():
    return builder.exists() and builder.read_text().rsplit(")", 1)[1].split()[0] != "Z"
for _ in range(200):
    if alive():
        time.sleep(0.05)
result["orphan"] = alive()
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """The folder in which builds were killed, ran side by side and met a full disk; and what was seen."""
    folder = tmp_path_factory.mktemp("builds")
    rng, affine = np.random.default_rng(5), np.diag([0.7, 0.7, 2, 1])
    for number in range(6):
        save(folder / f"data/volume-{number}.nii.gz", rng.integers(-1000, 1000, (64, 64, 30)).astype(np.int16), affine)
        save(folder / f"data/segmentation-{number}.nii.gz", rng.integers(0, 3, (64, 64, 30)).astype(np.uint8), affine)
    script = [sys.executable, "-c", BUILDS, str(folder / "data"), str(folder)]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_killed_builds_go_on_and_end_with_the_same_bytes(builds):
    folder, seen = builds
    assert seen["killed"] >= seen["partial"] == 4  # killed in the middle of a volume
    assert len(snapshot(folder / "reference")) == 3 * 6
    assert snapshot(folder / "killed") == snapshot(folder / "reference")
    assert not list((folder / "killed").glob("*.partial-*"))


def test_several_processes_at_once_share_the_work(builds):
    folder, seen = builds
    assert seen["codes"] == [0, 0, 0]
    assert len(seen["builds"]) == len(set(seen["builds"])) == 6  # each volume once
    assert snapshot(folder / "shared") == snapshot(folder / "reference")
    assert not list((folder / "shared").glob("*.partial-*"))


def test_disk_that_fills_up_while_writing(builds):
    folder, seen = builds
    code, message = seen["full"]
    assert code == 1 and re.search(r"full: found a full disk \(File too large, .* GB free\) at case volume-0", message)
    assert "set cache_dir to a larger disk" in message
    assert [path.name for path in (folder / "full").iterdir()] == [".locks"]


def test_builder_ends_with_its_parent(builds):
    assert builds[1]["orphan"] is False


def test_loser_of_a_race_discards_its_work(ct, tmp_path):
    """Without file locks two processes may build one volume; the second rename then finds the name taken."""
    volume = make(ct, tmp_path)[0]
    folder = Path(volume.folder)
    inode = folder.stat().st_ino
    sources = volume.manifest["sources"]
    paths = {kind: source["path"] for kind, source in sources.items()}
    cached_volume.build_volume(folder, sources, paths, modality="ct", label_values=(0, 1, 2))
    assert folder.stat().st_ino == inode and not list(folder.parent.glob("*.partial-*"))


def test_leftovers_are_removed_unless_someone_is_at_it(ct, tmp_path):
    import fcntl

    (tmp_path / "cache" / ".locks").mkdir(parents=True)
    mine = tmp_path / "cache" / f"a-00000000.partial-{socket.gethostname()}-1"
    busy = tmp_path / "cache" / f"b-00000000.partial-{socket.gethostname()}-1"
    elsewhere = tmp_path / "cache" / "c-00000000.partial-otherhost-1"
    old = tmp_path / "cache" / "d-00000000.partial-otherhost-1"
    for folder in (mine, busy, elsewhere, old):
        folder.mkdir()
        (folder / "image.npy").write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    with (tmp_path / "cache" / ".locks" / "b-00000000").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make(ct, tmp_path)
    assert [folder.exists() for folder in (mine, busy, elsewhere, old)] == [False, True, True, False]


def test_a_complete_cache_needs_no_locks(ct, tmp_path):
    """As in a folder that others may only read, with what a killed build has left, or without its hidden folders."""
    complete = make(ct, tmp_path)
    shutil.rmtree(tmp_path / "cache" / ".locks")
    (tmp_path / "cache" / f"a-00000000.partial-{socket.gethostname()}-1").mkdir()
    (tmp_path / "cache" / ".locks").touch()  # no folder, so that no lock can be made in it
    assert [volume.folder for volume in make(ct, tmp_path)] == [volume.folder for volume in complete]
    shutil.rmtree(complete[0].folder)
    with pytest.raises(DataError, match=r"cache: found a folder that cannot be written to \(.*\), expected"):
        make(ct, tmp_path)


def test_reading_keeps_nothing_mapped(ct, tmp_path):
    volume = make(ct, tmp_path)[0]
    np.array(volume.image)
    np.array(volume.label), np.array(volume.foreground[1])
    assert volume.folder not in Path("/proc/self/maps").read_text()
    held = volume.image
    assert volume.folder in Path("/proc/self/maps").read_text()
    del held


def test_dicom_folder_through_the_cache(tmp_path):
    itk = pytest.importorskip("itk")
    array = np.arange(3 * 6 * 8).reshape(3, 6, 8).astype(np.int16)
    (tmp_path / "scan").mkdir()
    for k, plane in enumerate(array):
        image = itk.image_from_array(plane[None])
        image.SetOrigin([0.0, 0.0, 3.0 * k])
        image.SetSpacing([1.0, 1.0, 3.0])
        tags = image.GetMetaDataDictionary()
        tags["0020|000e"], tags["0020|000d"] = "1.2.3.4", "1.2.3"
        tags["0008|0060"] = "CT"  # GDCM writes no positions for what is no scan
        codec = itk.GDCMImageIO.New()
        codec.KeepOriginalUIDOn()
        writer = itk.ImageFileWriter[type(image)].New(Input=image)
        writer.SetFileName(str(tmp_path / "scan" / f"{k}.dcm"))
        writer.SetImageIO(codec)
        writer.Write()
    case = {"id": "scan", "image": str(tmp_path / "scan"), "label": None, "group": "scan"}
    volume = make(None, tmp_path, cases=[case])[0]
    np.testing.assert_array_equal(volume.image, array)  # identity direction in LPS: (z, y, x) is SPL
    (tmp_path / "scan" / "2.dcm").unlink()
    assert make(None, tmp_path, cases=[case])[0].shape == (2, 6, 8)


def test_real_scans(real_liver, tmp_path):
    cases = [
        {"id": n, "image": str(real_liver / f"{n}_image.nii.gz"), "label": str(real_liver / f"{n}_liver.nii.gz")}
        for n in ("ct512", "ct3mm")
    ]
    cache = make(None, tmp_path, cases=cases)
    for volume, voxels, hu in zip(cache, (366_708, 38_634), (89.3, 45.3), strict=True):  # figures of the data's README
        assert volume.image.dtype == np.int16 and volume.label_histogram[:, 1].sum() == voxels
        assert volume.image[np.asarray(volume.label) == 1].mean() == pytest.approx(hu, abs=0.05)
        assert np.argwhere(volume.label)[:, 2].mean() < 0.4 * volume.shape[2]  # the liver: left in the picture
        np.testing.assert_array_equal(volume.image, to_canonical(read_volume(volume.image_path)).array)
    assert cache[0].image.nbytes == 20 * 512 * 512 * 2  # as much as float16


def test_real_stacks_without_an_ignore_label(real_membranes, tmp_path):
    cache = make(real_membranes, tmp_path, "scroll", ignore_label=2)
    assert [volume.id for volume in cache] == ["10", "11", "12"] and cache[0].shape == (20, 512, 512)
    assert cache[0].label_histogram.shape == (20, 3) and set(cache[0].foreground) == {1}
    assert len(cache[0].foreground[1]) == 10_000


def test_first_warning_of_a_missing_lock_does_not_stop_the_build(ct, tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache_module.fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING):
        assert len(make(ct, tmp_path)) == 3
    assert "no file locks (" in caplog.text


def test_instances_are_described():
    assert repr(CachedVolume(folder="f", id="a", group="g")) == "CachedVolume(id='a', group='g', folder='f')"
