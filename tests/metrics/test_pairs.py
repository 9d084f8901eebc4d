import pytest

from custom.errors import DataError
from custom.metrics.pairs import pair_files


def folders(tmp_path, predictions, labels):
    for folder, names in (("p", predictions), ("l", labels)):
        (tmp_path / folder).mkdir()
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / "p", tmp_path / "l"


@pytest.mark.parametrize(
    "prediction, label, case",
    [
        ("case_7.nii.gz", "case_7.nii.gz", "case_7"),
        ("case_7.nii.gz", "case_7.nii", "case_7"),
        ("case_7.mha", "case_7.nrrd", "case_7"),
        ("volume-7.nii.gz", "segmentation-7.nii", "volume-7"),
        ("segmentation-7.nii", "segmentation-7.nii", "segmentation-7"),
        ("volume-007.nii.gz", "segmentation-7.nii", "volume-007"),
        ("volume-7.nii.gz", "segmentation-007.nii", "volume-7"),
        ("test-volume-3.nii", "test-segmentation-3.nii", "test-volume-3"),
        ("volume-7_pred.nii.gz", "segmentation-7.nii", "volume-7"),
        ("volume-7_seg.nii.gz", "volume-7.nii.gz", "volume-7"),
        ("volume-7/volume-7_seg.nii.gz", "segmentation-7.nii", "volume-7"),
        ("liver_0.nii.gz", "labelsTr/liver_0.nii.gz", "liver_0"),
        ("a_pred.nii.gz", "a_seg.nii.gz", "a"),
        ("x_seg.nii.gz", "x_seg.nii.gz", "x_seg"),
    ],
)
def test_pairs(tmp_path, prediction, label, case):
    p, lab = folders(tmp_path, [prediction], [label])
    assert pair_files(p, lab) == {case: (p / prediction, lab / label)}


def test_many_in_natural_order(tmp_path):
    numbers = [0, 1, 2, 10, 100]
    p, lab = folders(tmp_path, [f"volume-{n}.nii.gz" for n in numbers], [f"segmentation-{n}.nii.gz" for n in numbers])
    pairs = pair_files(str(p), str(lab))
    assert list(pairs) == [f"volume-{n}" for n in numbers]
    assert all(label.name == f"segmentation-{case.split('-')[1]}.nii.gz" for case, (_, label) in pairs.items())


def test_what_else_lies_there_is_left_alone(tmp_path):
    p, lab = folders(
        tmp_path,
        ["volume-1.nii.gz", "cases.csv", "scores.json", ".12.volume-1.nii.gz", "._volume-1.nii"],
        ["train/segmentation/segmentation-1.nii", "train/volume/volume-1.nii", "volume-1.nii", "notes.txt"],
    )
    assert list(pair_files(p, lab)) == ["volume-1"]
    assert pair_files(p, lab)["volume-1"][1].name == "segmentation-1.nii"


def test_msd_images_are_not_labels(tmp_path):
    p, lab = folders(tmp_path, ["liver_1.nii.gz"], ["labelsTr/liver_1.nii.gz", "imagesTr/liver_1.nii.gz"])
    assert pair_files(p, lab)["liver_1"][1].parent.name == "labelsTr"


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        ([], ["segmentation-1.nii"], "found no volume"),
        (["volume-1.nii"], [], "found no volume"),
        (["volume-1.nii"], ["segmentation-2.nii"], r"volume-1.nii: found no label for it in .*/l"),
        (["volume-1.nii"], ["segmentation-1.nii", "segmentation-2.nii"], r"no prediction for .*segmentation-2.nii,"),
        (
            ["volume-1.nii"],
            [f"segmentation-{n}.nii" for n in (1, 2, 3)],
            r"no prediction for .*segmentation-2.nii and for 1 more",
        ),
        (["volume-1.nii", "volume-01.nii"], ["segmentation-1.nii"], "a second prediction beside"),
        (["volume-1.nii"], ["segmentation-1.nii", "segmentation-01.nii"], "2 labels for it"),
        (["a.nii", "a.nii.gz"], ["a.nii"], "the name of .*a.nii"),
        (["a.nii"], ["b.nii"], "no label for it"),
    ],
)
def test_refusals_name_the_file(tmp_path, predictions, labels, message):
    with pytest.raises(DataError, match=message) as error:
        pair_files(*folders(tmp_path, predictions, labels))
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        pair_files(tmp_path / "nowhere", tmp_path)
