import itertools
import json
import logging
import runpy
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import SimpleInferer
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from custom.errors import DataError
from custom.metrics.liver import LiverMetrics, known_spacing, score_folders
from custom.metrics.liver_case import measure

AFFINE = np.array([[-0.8, 0, 0, 90.0], [0, 0.9, 0, -120.0], [0, 0, 5.0, 40.0], [0, 0, 0, 1]])
SPACING = (0.8, 0.9, 5.0)


def body(shift=0, tumor=True):
    """A liver in the files' axis order (i, j, k), its tumour, and both moved by some voxels along i."""
    label = np.zeros((20, 16, 8), np.uint8)
    label[3 + shift : 13 + shift, 3:12, 1:7] = 1
    if tumor:
        label[5 + shift : 9 + shift, 5:9, 2:5] = 2
    return label


def save(path: Path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def tensor(array, name, affine=AFFINE):
    return MetaTensor(torch.from_numpy(array)[None], affine=affine, meta={"filename_or_obj": name})


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "IRP", "ASR"])
def test_an_identity_is_recognised_in_every_orientation(codes):
    shape = (7, 5, 9)
    for identity in (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])):
        change = ornt_transform(io_orientation(identity), axcodes2ornt(codes))
        turned = identity @ inv_ornt_aff(change, shape)
        turned_shape = apply_orientation(np.zeros(shape), change).shape
        assert known_spacing(turned, turned_shape) is None


@pytest.mark.parametrize(
    "affine, expected",
    [
        (AFFINE, SPACING),
        (np.diag([1.0, 1.0, 2.5, 1.0]), (1, 1, 2.5)),
        (np.eye(4) + np.eye(4, k=3) * 31.7, (1, 1, 1)),  # 1 mm cubes somewhere in the scanner
        (np.diag([3.0, 3.0, 3.0, 1.0])[[1, 2, 0, 3]], (3, 3, 3)),
    ],
)
def test_known_spacing(affine, expected):
    assert known_spacing(affine, (20, 16, 8)) == pytest.approx(expected)


def test_metric_collects_cases_by_their_names():
    metric = LiverMetrics()
    metric([tensor(body(1), "x")], [tensor(body(), "/data/segmentation-3.nii.gz")])
    metric([torch.from_numpy(body(2, tumor=False))[None]], [tensor(body(tumor=False), "volume-4")])
    cases = metric.cases()
    assert list(cases) == ["segmentation-3", "volume-4"]
    assert cases["segmentation-3"] == pytest.approx(measure(body(1), body(), SPACING))
    expected = measure(body(2, tumor=False), body(tumor=False), SPACING)
    assert cases["volume-4"] == pytest.approx(expected, nan_ok=True)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("key", ["mean_dice", "liver_dice", "tumor_dice"])
def test_aggregate_is_the_mean_over_volumes(key):
    pairs = [(body(1), body()), (body(3), body()), (body(2, tumor=False), body(tumor=False))]
    metric = LiverMetrics(key=key, distances=False)
    for number, (prediction, label) in enumerate(pairs):
        metric([tensor(prediction, "p")], [tensor(label, f"case-{number}")])
    liver = np.mean([dice(p > 0, t > 0) for p, t in pairs])
    tumor = np.mean([dice(p == 2, t == 2) for p, t in pairs[:2]])  # the third is tumour-free and seen as such
    expected = {"mean_dice": (liver + tumor) / 2, "liver_dice": liver, "tumor_dice": tumor}
    assert metric.aggregate().item() == pytest.approx(expected[key], rel=1e-6)
    assert metric.means()["liver_dice"] == pytest.approx(liver)
    assert "liver_hd95" not in metric.means()


def test_a_false_alarm_costs_a_tumour_free_volume_its_tumour_dice():
    metric = LiverMetrics(key="tumor_dice", distances=False)
    metric([tensor(body(), "p")], [tensor(body(), "a")])
    metric([tensor(body(), "p")], [tensor(body(tumor=False), "b")])
    assert metric.aggregate() == 0.5


def test_reset_forgets():
    metric = LiverMetrics(distances=False)
    metric([tensor(body(4), "p")], [tensor(body(), "a")])
    metric.reset()
    assert metric.cases() == {} and metric.aggregate() == 0
    metric([tensor(body(), "p")], [tensor(body(), "a")])
    assert metric.aggregate() == 1


@pytest.mark.parametrize("shift", [0, 1])
def test_an_id_is_that_of_one_volume(shift):
    """Also where both have the same scores, which would count once in the mean."""
    metric = LiverMetrics(distances=False)
    metric([tensor(body(), "p")], [tensor(body(), "a")])
    with pytest.raises(ValueError, match="two volumes have the id 'a'"):
        metric([tensor(body(shift), "p")], [tensor(body(), "a")])


def test_cases_of_several_ranks_are_in_the_order_of_the_dataset(monkeypatch):
    """Five volumes on two ranks, of which the second repeats the first volume; sums depend on the order."""
    metric = LiverMetrics(distances=False)
    rows = {name: metric.add(name, measure(body(shift), body(), distances=False)) for shift, name in enumerate("abcde")}
    ranks = [[(name, rows[name]) for name in share] for share in ("ace", "bda")]
    expected, means = metric.cases(), metric.means()
    monkeypatch.setattr("custom.metrics.case_metric.gather", lambda _: ranks)
    assert list(metric.cases()) == list("abcde")
    assert json.dumps(metric.cases()) == json.dumps(expected) and metric.means() == means


def test_an_identity_affine_is_said_and_leaves_no_millimetres():
    metric = LiverMetrics()
    with pytest.warns(UserWarning, match="volume-28: its affine is the identity"):
        metric([tensor(body(1), "p")], [tensor(body(), "volume-28.nii", np.eye(4))])
    with pytest.warns(UserWarning, match="case-1"):
        metric([torch.from_numpy(body(1))[None]], [torch.from_numpy(body())[None]])
    for case in metric.cases().values():
        assert np.isnan(case["liver_assd"]) and np.isnan(case["tumor_hd95"])
        assert case["liver_dice"] == pytest.approx(dice(body(1) > 0, body() > 0))


def test_batches_and_single_slices():
    lists, batches, slices = (LiverMetrics(distances=False) for _ in range(3))
    lists([torch.from_numpy(body(n))[None] for n in (0, 2)], [torch.from_numpy(body())[None]] * 2)
    batches(torch.from_numpy(np.stack([body(0), body(2)]))[:, None], torch.from_numpy(np.stack([body()] * 2))[:, None])
    assert [case["liver_dice"] for case in lists.cases().values()] == [1, pytest.approx(dice(body(2) > 0, body() > 0))]
    for name, case in lists.cases().items():
        assert batches.cases()[name] == pytest.approx(case, nan_ok=True)
    slices([torch.from_numpy(body(1)[:, :, 3])[None]], [torch.from_numpy(body()[:, :, 3])[None]])
    assert slices.means()["liver_dice"] == pytest.approx(dice(body(1)[:, :, 3] > 0, body()[:, :, 3] > 0))


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="mean_dice, liver_dice, tumor_dice"):
        LiverMetrics(key="dice")


def test_in_monais_evaluator(tmp_path):
    """As evaluate.json declares it: the network is given predictions as images and hands them on."""
    items = [
        {"image": tensor(body(n).astype(np.float32), f"volume-{n}"), "label": tensor(body(), f"volume-{n}")}
        for n in range(3)
    ]
    metric = LiverMetrics()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=1),
        network=torch.nn.Identity(),
        inferer=SimpleInferer(),
        key_val_metric={"mean_dice": IgniteMetricHandler(metric, output_transform=from_engine(["pred", "label"]))},
    )
    evaluator.run()
    expected = [measure(body(n), body(), SPACING) for n in range(3)]
    means = [np.mean([case[f"{region}_dice"] for case in expected]) for region in ("liver", "tumor")]
    assert evaluator.state.metrics["mean_dice"] == pytest.approx(np.mean(means))
    assert evaluator.state.best_metric == evaluator.state.metrics["mean_dice"]
    metric.write(tmp_path)
    cases = json.loads((tmp_path / "scores.json").read_text())["cases"]
    assert list(cases) == ["volume-0", "volume-1", "volume-2"]
    assert cases["volume-2"]["liver"]["hd95"] == pytest.approx(expected[2]["liver_hd95"])
    assert "volume-2" in metric.table()


def test_folders(tmp_path):
    for number, shift in ((7, 1), (12, 0)):
        save(tmp_path / "p" / f"volume-{number}.nii.gz", body(shift))
        save(tmp_path / "l" / f"segmentation-{number}.nii", body())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scores, table = score_folders(tmp_path / "p", tmp_path / "l")
    assert list(scores["cases"]) == ["volume-7", "volume-12"]
    expected = measure(body(1), body(), SPACING)
    for region, name in itertools.product(("liver", "tumor"), ("dice", "voe", "rvd", "assd", "hd95")):
        assert scores["cases"]["volume-7"][region][name] == pytest.approx(expected[f"{region}_{name}"], rel=1e-6)
        assert scores["cases"]["volume-12"][region][name] == (1 if name == "dice" else 0)
    assert scores["cases"]["volume-7"]["lesions"] == {"tp": 1, "fp": 0, "fn": 0}
    assert scores["mean"]["liver"]["dice"] == pytest.approx((1 + expected["liver_dice"]) / 2)
    assert table.splitlines()[2].startswith("volume-7")


@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_a_prediction_with_other_axes_is_turned(tmp_path, codes):
    change = ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes))
    turned = np.ascontiguousarray(apply_orientation(body(1), change))
    save(tmp_path / "p" / "a.nii.gz", turned, AFFINE @ inv_ornt_aff(change, body().shape))
    save(tmp_path / "l" / "a.nii.gz", body())
    case = score_folders(tmp_path / "p", tmp_path / "l")[0]["cases"]["a"]
    expected = measure(body(1), body(), SPACING)
    for name in ("dice", "assd", "hd95"):
        assert case["liver"][name] == pytest.approx(expected[f"liver_{name}"], rel=1e-5)


def test_a_label_whose_header_contradicts_the_image_is_taken_by_array_order(tmp_path, caplog):
    save(tmp_path / "p" / "a.nii.gz", body(1))
    save(tmp_path / "l" / "a.nii.gz", body(), np.diag([2.0, 2.0, 2.0, 1.0]))
    with caplog.at_level(logging.WARNING):
        case = score_folders(tmp_path / "p", tmp_path / "l")[0]["cases"]["a"]
    assert "array order is kept" in caplog.text and "l/a.nii.gz" in caplog.text
    assert case["liver"]["assd"] == pytest.approx(measure(body(1), body(), SPACING)["liver_assd"], rel=1e-5)


@pytest.mark.parametrize("which", ["p", "l", "both"])
def test_identity_affines_of_files_are_said(tmp_path, which):
    for folder in ("p", "l"):
        save(tmp_path / folder / "a.nii.gz", body(1), np.eye(4) if which in (folder, "both") else AFFINE)
    with pytest.warns(UserWarning, match="a: its affine is the identity"):
        scores = score_folders(tmp_path / "p", tmp_path / "l")[0]
    assert scores["cases"]["a"]["liver"] == {"dice": 1, "voe": 0, "rvd": 0, "assd": None, "hd95": None}
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_labels_as_other_tools_store_them(tmp_path):
    save(tmp_path / "p" / "a.nii.gz", body(1)[..., None].astype(np.float32))  # 4-D, one frame, floats
    save(tmp_path / "l" / "a.nii.gz", body().astype(np.int32))
    case = score_folders(tmp_path / "p", tmp_path / "l")[0]["cases"]["a"]
    assert case["liver"]["dice"] == pytest.approx(dice(body(1) > 0, body() > 0))


@pytest.mark.parametrize(
    "prediction, label, message",
    [
        (
            body()[:-1],
            body(),
            r"p/a.nii.gz: found shape \(19, 16, 8\), expected the shape \(20, 16, 8\) of .*l/a.nii.gz",
        ),
        (body().transpose(1, 0, 2), body(), r"found shape .*expected the image's shape"),
        (body() * 127, body(), r"p/a.nii.gz: found label values 0, 127, 254, expected only 0, 1, 2"),
        (body(), body() * np.float32(0.5), r"l/a.nii.gz: found label values 0.5, expected whole numbers"),
        (body(), body().astype(np.int16) - 1, r"l/a.nii.gz: found label values -1, 0, 1, expected only"),
    ],
)
def test_refusals_name_the_file(tmp_path, prediction, label, message):
    save(tmp_path / "p" / "a.nii.gz", prediction)
    save(tmp_path / "l" / "a.nii.gz", label)
    with pytest.raises(DataError, match=message):
        score_folders(tmp_path / "p", tmp_path / "l")


def test_real_labels_against_themselves_with_a_painted_lesion(real_liver, tmp_path):
    """Both orientations of the real pair; the lesion is synthetic."""
    for name in ("ct512", "ct3mm"):
        image = nibabel.load(real_liver / f"{name}_liver.nii.gz")
        label = np.asarray(image.dataobj).astype(np.uint8)
        middle = tuple(np.argwhere(label)[len(np.argwhere(label)) // 2])
        label[tuple(slice(max(0, m - 3), m + 3) for m in middle)] *= 2
        save(tmp_path / "l" / f"{name}.nii.gz", label, image.affine)
        eroded = label.copy()
        eroded[label.nonzero()[0].min()] = 0  # the outermost slab of voxels is missed
        save(tmp_path / "p" / f"{name}.nii.gz", eroded, image.affine)
    scores = score_folders(tmp_path / "p", tmp_path / "l")[0]
    for name, spacing in (("ct512", 0.977), ("ct3mm", 3.0)):
        case = scores["cases"][name]
        assert 0.99 < case["liver"]["dice"] < 1
        assert case["lesions"] == {"tp": 1, "fp": 0, "fn": 0}
        assert 0 < case["liver"]["assd"] < 0.1 * spacing and case["liver"]["hd95"] == 0


def test_the_score_script_writes_what_is_returned(tmp_path, capsys):
    save(tmp_path / "p" / "volume-7.nii.gz", body(1))
    save(tmp_path / "l" / "segmentation-7.nii.gz", body())
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "score.py"))
    script["liver"](tmp_path / "p", tmp_path / "l", json=tmp_path / "scores.json")
    scores, table = score_folders(tmp_path / "p", tmp_path / "l")
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert table in capsys.readouterr().out


def test_cases_with_an_id_of_their_own_may_have_files_of_one_name():
    """As patients do whose folders each hold a ct.nii.gz."""
    metric = LiverMetrics()
    for case, label in {"patient-1": body(), "patient-2": body(shift=2)}.items():
        labelled = MetaTensor(
            torch.from_numpy(label)[None], affine=AFFINE, meta={"id": case, "filename_or_obj": "ct.nii"}
        )
        metric([torch.zeros_like(labelled)], [labelled])
    assert list(metric.cases()) == ["patient-1", "patient-2"]
