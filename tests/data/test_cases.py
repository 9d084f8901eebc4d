"""Listing datasets in their layouts, refusing incomplete ones, and folds."""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest

from custom.data import read_volume
from custom.data.cases import find_cases, find_images, fold_cases, natural
from custom.errors import DataError

from .dicom_writer import CAPTURE, DOSE_REPORT, slice_tags, write, write_series


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def short(cases, root):
    """(id, image, label, group) with paths relative to the root."""
    return [
        (
            case["id"],
            os.path.relpath(case["image"], root),
            case["label"] and os.path.relpath(case["label"], root),
            case["group"],
        )
        for case in cases
    ]


def kaggle(root, ids=("10", "9", "100")):
    touch(root, *[f"train_images/{k}.tif" for k in ids], *[f"train_labels/{k}.tif" for k in ids], "test_images/7.tif")
    rows = "".join(f"{k},{34117 if int(k) < 100 else 26002}\n" for k in [*ids, "55", "66"])
    (root / "train.csv").write_text("id,scroll_id\n" + rows)
    return root


def test_kaggle_layout(tmp_path, caplog):
    caplog.set_level("INFO")
    kaggle(tmp_path)
    assert short(find_cases(tmp_path), tmp_path) == [
        ("9", "train_images/9.tif", "train_labels/9.tif", "34117"),
        ("10", "train_images/10.tif", "train_labels/10.tif", "34117"),
        ("100", "train_images/100.tif", "train_labels/100.tif", "26002"),
    ]
    assert "2 ids of train.csv have no image" in caplog.text
    assert short(find_cases(tmp_path, section="test"), tmp_path) == [("7", "test_images/7.tif", None, "7")]


def test_kaggle_test_labels_and_scrolls_are_used_where_present(tmp_path):
    touch(tmp_path, "test_images/7.tif", "test_labels/7.tif")
    (tmp_path / "test.csv").write_text("id,scroll_id\n7,26002\n")
    assert short(find_cases(tmp_path, section="test"), tmp_path) == [
        ("7", "test_images/7.tif", "test_labels/7.tif", "26002")
    ]


def test_kaggle_table_with_other_columns(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "train.csv").write_text("name,scroll\n9,1\n")
    with pytest.raises(DataError, match=r"train\.csv: found columns \['name', 'scroll'\], expected id and scroll_id"):
        find_cases(tmp_path)


@pytest.mark.parametrize("folders", [("", ""), ("train/volume/", "train/segmentation/"), ("volume/", "segmentation/")])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_lits_and_aio_layouts(tmp_path, folders, ending):
    volumes, segmentations = folders
    for number in ("070", "2", "11"):
        touch(tmp_path, f"{volumes}volume-{number}{ending}", f"{segmentations}segmentation-{number}{ending}")
    touch(
        tmp_path,
        "subvolume-8.nii",
        "test/volume-90.nii",
        "test-volume-3.nii",
        f"{volumes}._volume-2{ending}",
        "notes.txt",
    )
    expected = [
        (f"volume-{n}", f"{volumes}volume-{n}{ending}", f"{segmentations}segmentation-{n}{ending}", f"volume-{n}")
        for n in ("2", "11", "070")
    ]
    assert short(find_cases(tmp_path), tmp_path) == expected
    assert [case["id"] for case in find_cases(tmp_path, section="test")] == ["test-volume-3", "volume-90"]


def test_msd_layout(tmp_path):
    names = [f"liver_{k}.nii.gz" for k in (3, 20, 1)]
    touch(tmp_path, *[f"imagesTr/{n}" for n in names], *[f"labelsTr/{n}" for n in names], "imagesTs/liver_9.nii.gz")
    touch(tmp_path, "imagesTr/._liver_3.nii.gz")
    content = {
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": ["./imagesTs/liver_9.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert short(find_cases(tmp_path), tmp_path) == [
        (f"liver_{k}", f"imagesTr/liver_{k}.nii.gz", f"labelsTr/liver_{k}.nii.gz", f"liver_{k}") for k in (1, 3, 20)
    ]
    assert short(find_cases(tmp_path, section="test"), tmp_path) == [
        ("liver_9", "imagesTs/liver_9.nii.gz", None, "liver_9")
    ]
    (tmp_path / "labelsTr" / "liver_20.nii.gz").unlink()
    with pytest.raises(DataError, match=r"dataset\.json: found the entry .*labelsTr/liver_20\.nii\.gz, which does not"):
        find_cases(tmp_path)


@pytest.mark.parametrize("keyed", [False, True])
def test_data_list(tmp_path, keyed):
    touch(tmp_path, "a/x.nrrd", "b/y.nrrd", "c.mha", "d.mha", "e.mha")
    entries = [
        {"image": "a/x.nrrd", "label": "b/y.nrrd", "id": "two", "group": "P1"},
        {"image": str(tmp_path / "c.mha"), "label": "d.mha"},
        {"image": "e.mha", "label": "d.mha", "group": 0},
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": entries} if keyed else entries))
    assert short(find_cases(path), tmp_path) == [
        ("c", "c.mha", "d.mha", "c"),
        ("e", "e.mha", "d.mha", "0"),
        ("two", "a/x.nrrd", "b/y.nrrd", "P1"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "found no JSON"),
        ('[{"label": "c.mha"}]', "found the entry"),
        ("[3]", "found the entry 3"),
        ("[]", "found no training cases"),
        ('{"test": ["c.mha"]}', "found no training cases"),
        ('["c.mha"]', r"c\.mha: found no label for it"),
        ('[{"image": "c.mha", "label": "c.mha"}, {"image": "a/c.mha", "label": "c.mha"}]', "found two cases 'c'"),
    ],
)
def test_bad_data_list(tmp_path, content, message):
    touch(tmp_path, "c.mha", "a/c.mha")
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(DataError, match=message):
        find_cases(tmp_path / "list.json")


def test_refusals_name_folder_and_layouts(tmp_path):
    with pytest.raises(DataError, match="nowhere: found no such folder, expected a folder"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"found an empty folder, expected one of: train_images/.*LiTS.*dataset\.json"):
        find_cases(tmp_path)
    touch(tmp_path, "readme.txt", "some/scan.nii")
    with pytest.raises(DataError, match=r"found 2 files of no known layout \(readme\.txt, some/scan\.nii"):
        find_cases(tmp_path)
    with pytest.raises(DataError, match=r"readme\.txt: found a file, expected a folder"):
        find_cases(tmp_path / "readme.txt")


def test_image_without_its_label_is_never_skipped(tmp_path):
    kaggle(tmp_path / "k")
    (tmp_path / "k/train_labels/10.tif").unlink()
    with pytest.raises(DataError, match=r"train_images/10\.tif: found no label for it, expected a label"):
        find_cases(tmp_path / "k")
    touch(tmp_path / "l", "volume-1.nii", "volume-2.nii", "volume-3.nii", "segmentation-2.nii", "segmentation-5.nii")
    with pytest.raises(DataError, match=r"volume-1\.nii: found no label for it \(and 1 more images without one\)"):
        find_cases(tmp_path / "l")


def test_unreadable_folder(tmp_path, monkeypatch):
    kaggle(tmp_path)
    scandir = os.scandir

    def refuse(path):  # permissions do not stop the root user, whom containers run as
        if str(path).endswith("train_labels"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train_labels: found a folder that cannot be read \(Permission denied\)"):
        find_cases(tmp_path)


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    kaggle(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in ("train_images", "train_labels", "train.csv"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "train_images" / "loop").symlink_to(tmp_path / "real")
    assert [case["id"] for case in find_cases(tmp_path / "linked")] == ["9", "10", "100"]


def test_images_to_predict(tmp_path):
    flat = touch(tmp_path / "flat", "b10.nii.gz", "b9.nrrd", "b.tif", "readme.md", ".hidden.nii")
    assert [case["id"] for case in find_images(flat)] == ["b", "b9", "b10"]
    assert find_images(flat / "b9.nrrd") == [{"id": "b9", "image": str(flat / "b9.nrrd"), "group": "b9"}]
    assert [case["id"] for case in find_images([flat / "b.tif", flat / "b9.nrrd"])] == ["b", "b9"]
    with pytest.raises(DataError, match=r"nothing\.nii: found no such file"):
        find_images(tmp_path / "nothing.nii")
    with pytest.raises(DataError, match="found 1 files and no image among them"):
        find_images(touch(tmp_path / "texts", "readme.md"))


def test_images_of_a_dataset_folder_are_its_test_section(tmp_path):
    assert [case["id"] for case in find_images(kaggle(tmp_path / "k"))] == ["7"]
    (tmp_path / "k" / "list.json").write_text(
        '{"test": [{"image": "test_images/7.tif", "label": "test_images/7.tif"}]}'
    )
    assert [(case["id"], "label" in case) for case in find_images(tmp_path / "k" / "list.json")] == [("7", False)]
    lits = touch(tmp_path / "lits", "volume-1.nii", "segmentation-1.nii")
    assert [case["id"] for case in find_images(lits)] == ["volume-1"]


def found(root, **options):
    """id to path below the root."""
    return {case["id"]: os.path.relpath(case["image"], root) for case in find_images(root, **options)}


def left_out(caplog):
    """The one warning, without the folder."""
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return message.split(": ", 1)[1]


VOLUME = np.zeros((3, 2, 2), int)


def test_patients_at_any_depth(tmp_path, caplog):
    write_series(tmp_path / "one", VOLUME)
    write_series(tmp_path / "two" / "study" / "series", VOLUME, name="{}")
    write_series(tmp_path / "three", VOLUME)
    write_series(tmp_path / "three" / "sub", VOLUME)
    touch(tmp_path, "three/00_README.txt", "three/.DS_Store", "._one.nii.gz", "__MACOSX/._a", ".cache/x.nii.gz")
    touch(tmp_path, "four/ct.nii.gz", "five/ct.nii.gz", "five.nrrd", "a/b/c/d/e/f.tif")
    assert found(tmp_path) == {
        "a_b_c_d_e_f": "a/b/c/d/e/f.tif",
        "five": "five.nrrd",
        "five_ct": "five/ct.nii.gz",
        "four_ct": "four/ct.nii.gz",
        "one": "one",
        "three": "three",
        "three_sub": "three/sub",
        "two_study_series": "two/study/series",
    }
    assert left_out(caplog) == "8 images are taken; left out are 1 files that are no images (three/00_README.txt)"
    assert found(tmp_path / "three") == {"three": ".", "sub": "sub"}
    left_out(caplog)
    assert found(tmp_path / "one") == {"one": "."}
    assert not caplog.records


def test_files_of_one_name_have_different_ids(tmp_path):
    touch(tmp_path, "a.nii.gz", "a.mha")
    write_series(tmp_path / "a", VOLUME)
    assert found(tmp_path) == {"a": "a", "a_mha": "a.mha", "a_nii_gz": "a.nii.gz"}


def test_labels_beside_images_are_named(tmp_path, caplog):
    touch(tmp_path, "p1/ct.nii.gz", "p1/liver_mask.nii.gz", "p1/segmentation.nii.gz", "p1/ct_pred.nii.gz")
    touch(tmp_path, "labels/p1.nii.gz", "imagesTs/unmasked.nii.gz", "maskoid.nii.gz")
    write_series(tmp_path / "MASKS_DICOM" / "liver", VOLUME)
    assert list(found(tmp_path)) == ["imagesTs_unmasked", "maskoid", "p1_ct"]
    words = "5 labels by their names (labels/p1.nii.gz, p1/ct_pred.nii.gz, p1/liver_mask.nii.gz, ...)"
    assert left_out(caplog) == f"3 images are taken; left out are {words}"
    assert list(found(tmp_path / "labels")) == ["p1"]  # below a folder of that name they are what is meant
    assert list(found(touch(tmp_path / "only", "a_mask.nii.gz"))) == ["a_mask"]
    assert not caplog.records


def test_dicom_that_is_no_volume(tmp_path, caplog):
    write_series(tmp_path / "ct", VOLUME)
    write(tmp_path / "sr" / "1", slice_tags(VOLUME[0], SOPClassUID=DOSE_REPORT, PixelData=None))
    write(tmp_path / "scout" / "1.dcm", slice_tags(VOLUME[0], ImageType="ORIGINAL\\PRIMARY\\LOCALIZER"))
    write(tmp_path / "shot" / "1.dcm", slice_tags(VOLUME[0], SOPClassUID=CAPTURE, ImagePositionPatient=None))
    write(tmp_path / "DICOMDIR", {"SOPClassUID": "1.2.840.10008.1.3.10"})
    assert found(tmp_path) == {"ct": "ct"}
    assert (
        left_out(caplog)
        == "1 images are taken; left out are 4 DICOM files of no volume (DICOMDIR, scout/1.dcm, shot/1.dcm, ...)"
    )
    assert found(tmp_path / "shot") == {"shot": "."}  # whoever reads it says what it is


def test_volumes_of_formats_that_are_not_read_fail_by_name(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.mgz", "c.hdr", "c.img", "d.mhd", "d.raw", "big.zarr/0/0.0.0", "e.nii.bz2")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    images = find_images(tmp_path)
    assert [case["id"] for case in images] == ["a", "b.mgz", "big.zarr", "c.hdr", "d", "e.nii.bz2", "gone"]
    for case in images[1:4] + images[5:]:
        with pytest.raises(DataError, match=re.escape(case["image"])):
            read_volume(case["image"])


def test_predictions_of_an_earlier_run_are_no_images(tmp_path):
    touch(tmp_path, "a.nii.gz", "out/a.nii.gz", "outside/a.nii.gz")
    assert list(found(tmp_path, output_dir=tmp_path / "out")) == ["a", "outside_a"]
    assert list(found(tmp_path, output_dir=tmp_path.parent / "out")) == ["a", "out_a", "outside_a"]
    with pytest.raises(DataError, match="found the folder of the images, expected another output_dir"):
        find_images(tmp_path, output_dir=str(tmp_path) + "/.")


def test_lits_volumes_without_a_section_are_all_predicted(tmp_path, caplog):
    touch(tmp_path, "p1/volume-1.nii", "p2/volume-2.nii", "p2/segmentation-2.nii", "other.nii")
    assert list(found(tmp_path)) == ["other", "volume-1", "volume-2"]
    assert "1 labels by their names (p2/segmentation-2.nii)" in left_out(caplog)
    touch(tmp_path, "test/volume-9.nii")
    assert list(found(tmp_path)) == ["other", "volume-9"]
    assert "2 training volumes beside test volumes (p1/volume-1.nii, p2/volume-2.nii)" in left_out(caplog)


def test_what_a_dataset_does_not_use_is_named(tmp_path, caplog):
    caplog.set_level("INFO")
    touch(kaggle(tmp_path / "k"), "train_labels/8.tif", "extra.tif", "train_images/old/10.tif")
    find_cases(tmp_path / "k")
    messages = [f"{record.levelname} {record.getMessage().split(': ', 1)[1]}" for record in caplog.records]
    assert messages == [
        "WARNING 2 ids of train.csv have no image and are left out: 55, 66",
        "INFO 1 image files of its test section are not used here: test_images/7.tif",
        "WARNING 3 image files are in no case and left out: extra.tif, train_images/old/10.tif, train_labels/8.tif",
    ]
    caplog.clear()
    find_images(tmp_path / "k")
    assert "WARNING" in [record.levelname for record in caplog.records]
    assert "9 image files of its training section are not used here: extra.tif, train_images/10.tif" in caplog.text
    caplog.clear()
    find_cases(touch(tmp_path / "l", "volume-1.nii", "segmentation-1.nii", "segmentation-5.nii"))
    assert left_out(caplog) == "1 image files are in no case and left out: segmentation-5.nii"
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "list.json").write_text('{"training": [{"image": "a.nii", "label": "b.nii"}], "validation": ["b.nii"]}')
    find_cases(tmp_path / "list.json")
    assert left_out(caplog) == "its section training (1) is used, not validation (1)"


def test_two_segmentations_of_one_number(tmp_path):
    touch(tmp_path, "volume-1.nii", "a/segmentation-1.nii", "b/segmentation-1.nii")
    with pytest.raises(
        DataError, match=r"two segmentations of one number \(a/segmentation-1.nii, b/segmentation-1.nii"
    ):
        find_cases(tmp_path)


def test_dicom_folders_to_predict(tmp_path):
    for name in ("p2", "p10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IM1").write_bytes(b"\0" * 128 + b"DICM")
    assert [case["id"] for case in find_images(tmp_path)] == ["p2", "p10"]
    assert find_images(tmp_path / "p2")[0]["image"] == str(tmp_path / "p2")


def cases_of(sizes):
    return [
        {"id": f"{group}-{k}", "image": "i", "label": "l", "group": group}
        for group, size in sizes.items()
        for k in range(size)
    ]


# Scroll sizes of the Vesuvius training data.
SCROLLS = {"34117": 382, "35360": 176, "26010": 130, "26002": 88, "44430": 17, "53997": 13}


@pytest.mark.parametrize("by", ["id", "group"])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_partition_the_cases(by, seed):
    cases, n_folds = cases_of(SCROLLS), 4
    seen = Counter()
    for fold in range(n_folds):
        train = fold_cases(cases, fold=fold, n_folds=n_folds, subset="train", by=by, seed=seed)
        held = fold_cases(cases, fold=fold, n_folds=n_folds, subset="validation", by=by, seed=seed)
        assert len(train) + len(held) == len(cases)
        assert not {case[by] for case in train} & {case[by] for case in held}
        assert [case for case in cases if case in held] == held  # the order is kept
        seen.update(case["id"] for case in held)
    assert set(seen.values()) == {1} and len(seen) == len(cases)


def test_folds_are_balanced_deterministic_and_depend_on_the_seed():
    cases = cases_of({str(k): 1 for k in range(23)})
    held = [fold_cases(cases, fold=k, subset="validation") for k in range(5)]
    assert sorted(map(len, held)) == [4, 4, 5, 5, 5]
    assert held[2] == fold_cases(cases, fold=2, subset="validation")
    assert fold_cases(list(reversed(cases)), fold=2, subset="validation") == list(reversed(held[2]))
    assert held[2] != fold_cases(cases, fold=2, subset="validation", seed=1)
    # By scroll: the largest four fill a fold each, the two small ones join the smallest.
    sizes = [len(fold_cases(cases_of(SCROLLS), fold=k, n_folds=4, subset="validation", by="group")) for k in range(4)]
    assert sorted(sizes) == [88 + 17 + 13, 130, 176, 382]


def test_fold_options():
    cases = cases_of({"a": 2, "b": 1})
    assert fold_cases(cases, subset="all") == fold_cases(cases, n_folds=1, subset="validation") == cases
    with pytest.raises(DataError, match="found 2 groups, expected at least 3"):
        fold_cases(cases, n_folds=3, by="group")
    with pytest.raises(DataError, match="found 3 volumes, expected at least 5"):
        fold_cases(cases)
    for wrong in ({"fold": 5}, {"fold": -1}, {"subset": "test"}, {"by": "scroll"}):
        with pytest.raises(DataError, match=r"^(fold|subset|fold_by): found"):
            fold_cases(cases * 5, **wrong)


def test_natural_order():
    assert sorted(["a10", "a9", "b", "10", "9", "a"], key=natural) == ["9", "10", "a", "a9", "a10", "b"]


def test_real_membranes(real_membranes):
    assert [(case["id"], case["group"]) for case in find_cases(real_membranes)] == [
        ("10", "vnc"),
        ("11", "vnc"),
        ("12", "vnc"),
    ]
    (test,) = find_cases(real_membranes, section="test")
    assert test["label"].endswith("test_labels/13.tif")


def test_dataset_behind_a_url(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("train_images/2.tif", "train_labels/2.tif", "train_images/10.tif", "train_labels/10.tif"):
        memory.pipe(f"/dataset/{name}", b"x")
    memory.pipe("/dataset/train.csv", b"id,scroll_id\n2,A\n10,B\n")
    memory.pipe("/dataset/list.json", b'[{"image": "./train_images/2.tif", "label": "train_labels/2.tif"}]')
    try:
        assert find_cases("memory://dataset") == [
            {
                "id": "2",
                "image": "memory://dataset/train_images/2.tif",
                "label": "memory://dataset/train_labels/2.tif",
                "group": "A",
            },
            {
                "id": "10",
                "image": "memory://dataset/train_images/10.tif",
                "label": "memory://dataset/train_labels/10.tif",
                "group": "B",
            },
        ]
        assert find_cases("memory://dataset/list.json")[0]["image"] == "memory://dataset/train_images/2.tif"
        with pytest.raises(DataError, match="memory://elsewhere: found nothing"):
            find_cases("memory://elsewhere")
        with pytest.raises(DataError, match="xyz://a: found a URL that cannot be opened"):
            find_cases("xyz://a")
    finally:
        memory.rm("/dataset", recursive=True)


@pytest.mark.parametrize(("key", "meant"), [("lable", "label"), ("Group", "group"), ("images", "image")])
def test_a_mistyped_key_of_a_data_list_is_refused(tmp_path, key, meant):
    (tmp_path / "a.nii.gz").touch()
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "a.nii.gz"}, {"image": "a.nii.gz", key: "a.nii.gz"}]))
    with pytest.raises(DataError) as caught:
        find_cases(path, section="test")
    assert str(caught.value) == f"{path}: found entries with {key!r}, which nothing reads, expected {meant!r}"


def test_another_key_of_a_data_list_is_named(tmp_path, caplog):
    (tmp_path / "a.nii.gz").touch()
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "a.nii.gz", "fold": 0, "group": "one"}]))
    assert [case["group"] for case in find_cases(path, section="test")] == ["one"]
    assert caplog.messages == [f"{path}: nothing reads 'fold' of its entries"]
