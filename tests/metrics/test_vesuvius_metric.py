import csv
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from skimage.metrics import variation_of_information

from custom.handlers import CaseMetrics
from custom.metrics import vesuvius_score
from custom.metrics.vesuvius_metric import VesuviusScore, score_volume, topo_score, voi_score
from custom.metrics.vesuvius_score import dimension_f1, octants
from custom.ops.betti import INSTALL, BettiUnavailableError, betti_available

needs_betti = pytest.mark.skipif(not betti_available(), reason=INSTALL)

SIZE = 16  # octants of 8
CHEAP = ("surface_dice", "voi_score")


def empty():
    return np.zeros((SIZE,) * 3, np.uint8)


def sheet():
    """One sheet of two voxels across the four upper octants."""
    mask = empty()
    mask[2:4] = 1
    return mask


def two_sheets():
    """Two sheets of two voxels in each of the four upper octants, two voxels apart: 512 voxels each."""
    mask = sheet()
    mask[6:8] = 1
    return mask


def pinhole():
    mask = sheet()
    mask[:, 5, 5] = 0
    return mask


def bridge():
    mask = two_sheets()
    mask[4:6, 3, 3] = 1
    return mask


def two_bridges():
    mask = bridge()
    mask[4:6, 3, 6] = 1
    return mask


def block():
    mask = empty()
    mask[1:6, 1:6, 1:6] = 1
    return mask


def sealed_cavity():
    mask = block()
    mask[3, 3, 3] = 0
    return mask


def staircase():
    """Six lines of five voxels that touch by edges alone."""
    mask = empty()
    mask[range(1, 7), range(1, 7), 1:6] = 1
    return mask


def filled_staircase():
    """The same with a voxel in each corner: six steps that join by faces."""
    mask = staircase()
    mask[range(1, 6), range(2, 7), 1:6] = 1
    return mask


def entropy(*shares):
    return -sum(share * math.log2(share) for share in shares)


def voi(bits):
    return 1 / (1 + 0.3 * bits)


# Two sheets run together by v voxels, in bits: merge, the label's classes (two sheets, background where the bridge is)
# within the one predicted component; split, nothing, since each class of the label lies in one component.
BRIDGED = {v: entropy(512 / (1024 + v), 512 / (1024 + v), v / (1024 + v)) for v in (2, 4)}

# name: prediction, label, TopoScore, VOI score; by hand
CASES = {
    "perfect": (two_sheets, two_sheets, 1.0, 1.0),
    "empty against empty": (empty, empty, 1.0, 1.0),
    # One component an octant is never counted, so there is no feature in either: 1. VOI: one class each.
    "empty against a sheet": (empty, sheet, 1.0, 1.0),
    "a sheet against empty": (sheet, empty, 1.0, 1.0),
    # Four octants with one feature each, none found. VOI: the label's two sheets within one class, 1 bit.
    "empty against two sheets": (empty, two_sheets, 0.0, voi(1)),
    # One tunnel too many where the label has none. VOI: the label has one class, the prediction one more in 2 of 512.
    "a pinhole": (pinhole, sheet, 0.5 / 1.5, voi(entropy(510 / 512, 2 / 512))),
    # A pinhole that the label has too.
    "a pinhole of both": (pinhole, pinhole, 1.0, 1.0),
    # Components: 3 of the label's 4 are there and match, 2 * 3 / (3 + 4).
    "a bridge": (bridge, two_sheets, 6 / 7, voi(BRIDGED[2])),
    # The same, and one tunnel too many between the bridges.
    "two bridges": (two_bridges, two_sheets, (0.34 * 6 / 7 + 0.33 / 3) / 0.67, voi(BRIDGED[4])),
    "a sealed cavity": (sealed_cavity, block, 0.5 / 1.5, voi(entropy(124 / 125, 1 / 125))),
    # Five components too many, by faces; VOI joins them by edges, but lacks the 25 voxels in the corners of 55.
    "a diagonal staircase": (staircase, filled_staircase, 0.5 / 5.5, voi(entropy(30 / 55, 25 / 55))),
    # By the other way round, nothing of the label's five features is there.
    "a staircase filled": (filled_staircase, staircase, 0.0, voi(entropy(30 / 55, 25 / 55))),
}


@needs_betti
@pytest.mark.parametrize("name", CASES)
def test_topology_by_hand(name):
    prediction, label, expected, _ = CASES[name]
    assert topo_score(prediction() != 0, label() != 0)["toposcore"] == pytest.approx(expected)


@pytest.mark.parametrize("name", CASES)
def test_voi_by_hand(name):
    prediction, label, _, expected = CASES[name]
    assert voi_score(prediction() != 0, label() != 0)["voi_score"] == pytest.approx(expected)


@needs_betti
@pytest.mark.parametrize(
    ("prediction", "label", "surface"),
    [
        (two_sheets, two_sheets, 1.0),
        (empty, empty, 1.0),
        (empty, sheet, 0.0),
        (sheet, empty, 0.0),
        (pinhole, sheet, 1.0),  # no point of the pinhole's walls is 2 voxels from the sheet's faces
    ],
)
def test_the_score_is_the_weighted_sum(prediction, label, surface):
    scores = score_volume(prediction(), label())
    assert scores["surface_dice"] == pytest.approx(surface)
    expected = 0.3 * scores["toposcore"] + 0.35 * surface + 0.35 * scores["voi_score"]
    assert scores["score"] == pytest.approx(expected)


@needs_betti
def test_a_bridge_in_numbers():
    scores = score_volume(bridge(), two_sheets())
    assert scores["f1_components"] == pytest.approx(6 / 7)
    assert math.isnan(scores["f1_tunnels"]) and math.isnan(scores["f1_cavities"])
    assert scores["voi_split"] == pytest.approx(0)
    assert scores["voi_merge"] == pytest.approx(BRIDGED[2])
    assert (scores["components"], scores["label_components"]) == (1, 2)


@needs_betti
@pytest.mark.parametrize("prediction", [empty, two_bridges, staircase])
def test_everything_ignored(prediction):
    scores = score_volume(prediction(), np.full((SIZE,) * 3, 2, np.uint8))
    assert [scores[key] for key in ("score", "toposcore", "surface_dice", "voi_score")] == [1, 1, 1, 1]


@needs_betti
def test_ignored_voxels_count_in_neither():
    """A bridge and a pinhole under the ignore label do nothing, and no label value but 2 is ignored."""
    prediction, label = two_bridges(), two_sheets()
    prediction[6:8, 12, 12] = 0
    label[4:6, 3, :8] = 2
    label[6:8, 12, 12] = 2
    assert score_volume(prediction, label)["score"] == 1
    label[4:6, 3, :8] = 3
    assert score_volume(prediction, label)["score"] < 1


@needs_betti
def test_any_value_but_0_is_surface():
    for value in (1, 2, 255):
        assert score_volume(bridge() * value, two_sheets()) == pytest.approx(
            score_volume(bridge(), two_sheets()), nan_ok=True
        )


def test_octants_cover_the_volume_once():
    for shape in ((4, 5, 7), (1, 2, 3), (16, 16, 16)):
        seen = np.zeros(shape, int)
        for octant in octants(shape):
            seen[octant] += 1
        assert (seen == 1).all()
    first = octants((5, 4, 7))[0]
    assert [part.stop for part in first] == [3, 2, 4]  # (n + 1) // 2


@needs_betti
def test_features_are_counted_by_octant():
    """A ring round the centre of the volume is in four pieces, of which no octant sees a tunnel."""
    ring = empty()
    ring[4, 4:12, 4:12] = 1
    ring[4, 6:10, 6:10] = 0
    assert topo_score(ring != 0, empty() != 0)["toposcore"] == 1
    moved = np.roll(ring[:, 4:12, 4:12], 0)  # the same ring within one octant
    inside = empty()
    inside[:, :8, :8] = moved
    assert topo_score(inside != 0, empty() != 0)["toposcore"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("matched", "predicted", "present", "expected"),
    [(1, 1, 1, 1), (0, 2, 3, 0), (1, 1, 3, 0.5), (0, 0, 2, 0), (0, 1, 0, 1 / 3), (0, 2, 0, 0.2)],
)
def test_f1_by_hand(matched, predicted, present, expected):
    assert dimension_f1(matched, predicted, present) == pytest.approx(expected)


def test_no_features_no_f1():
    assert math.isnan(dimension_f1(0, 0, 0))


def test_voi_is_that_of_scikit_image():
    from scipy import ndimage

    generator = np.random.default_rng(0)
    for density in (0.05, 0.1, 0.2):
        prediction, label = (generator.random((9, 8, 7)) < density for _ in range(2))
        surface = prediction | label
        labelled = [ndimage.label(mask, np.ones((3, 3, 3)))[0][surface] for mask in (label, prediction)]
        expected = variation_of_information(*labelled)
        scores = voi_score(prediction, label)
        assert sorted([scores["voi_split"], scores["voi_merge"]]) == pytest.approx(sorted(expected))
        assert scores["voi_score"] == pytest.approx(1 / (1 + 0.3 * sum(expected)))


def test_splits_and_merges_are_told_apart():
    whole, halves = sheet() != 0, sheet() != 0
    halves[:, 8] = False
    scores = voi_score(halves, whole)
    assert scores["voi_split"] > 1 and scores["voi_merge"] == pytest.approx(0)
    scores = voi_score(whole, halves)
    assert scores["voi_merge"] > 1 and scores["voi_split"] == pytest.approx(0)


def test_leaving_out_the_topology_leaves_the_mean_of_the_rest(monkeypatch):
    monkeypatch.setattr(vesuvius_score, "topo_score", None)  # not even called
    scores = score_volume(bridge(), two_sheets(), parts=CHEAP)
    assert list(scores) == [
        *("score", "surface_dice", "voi_score"),
        *("voi_split", "voi_merge", "components", "label_components"),
    ]
    assert scores["score"] == pytest.approx((scores["surface_dice"] + scores["voi_score"]) / 2)


@pytest.mark.parametrize("parts", [(), ("dice",), ("voi_score", "topo")])
def test_unknown_parts(parts):
    with pytest.raises(ValueError, match="toposcore, surface_dice, voi_score"):
        score_volume(sheet(), sheet(), parts=parts)
    with pytest.raises(ValueError, match="toposcore, surface_dice, voi_score"):
        VesuviusScore(parts=parts)


@pytest.mark.parametrize("shapes", [((4, 4, 4), (4, 4, 5)), ((4, 4), (4, 4))])
def test_ill_shapes(shapes):
    with pytest.raises(ValueError, match=r"\(D, H, W\)"):
        score_volume(*map(np.zeros, shapes), parts=CHEAP)


def tensors(*masks):
    return torch.stack([torch.as_tensor(mask)[None] for mask in masks])


@needs_betti
def test_the_metric_is_the_mean_over_volumes():
    metric = VesuviusScore()
    metric(tensors(bridge(), pinhole()), tensors(two_sheets(), sheet()))
    metric([tensors(sheet())[0]], [tensors(sheet())[0]])  # decollated, as evaluators hand over
    expected = [score_volume(p(), y()) for p, y in ((bridge, two_sheets), (pinhole, sheet), (sheet, sheet))]
    assert metric.aggregate().item() == pytest.approx(np.mean([e["score"] for e in expected]))
    assert metric.get_buffer().shape == (3, len(metric.columns))
    means = metric.means()
    for column in metric.columns:
        values = [e[column] for e in expected]
        assert [case[column] for case in metric.cases().values()] == pytest.approx(values, nan_ok=True)
        assert column in means or np.isnan(values).all()
        if column in means:
            assert means[column] == pytest.approx(np.nanmean(values))
    metric.reset()
    assert metric.aggregate() == 0


def test_in_an_evaluator_with_a_table_of_the_cases(tmp_path):
    metric = VesuviusScore(parts=CHEAP)
    engine = Engine(lambda _, batch: [{"pred": batch[0][0], "label": batch[1][0]}])
    CaseMetrics(metric=metric, output_dir=str(tmp_path)).attach(engine, "score")
    for _ in range(2):  # the second run begins anew
        batches = [(tensors(bridge()), tensors(two_sheets())), (tensors(two_sheets()), tensors(two_sheets()))]
        state = engine.run(batches)
    assert state.metrics["voi_score"] == pytest.approx((voi(BRIDGED[2]) + 1) / 2)
    assert state.metrics["components"] == pytest.approx(1.5)
    assert 0.5 < state.metrics["score"] < 1
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["components"] for row in rows] == ["1", "2"]
    assert np.mean([float(row["score"]) for row in rows]) == pytest.approx(state.metrics["score"], abs=1e-5)


def test_the_metric_refuses_several_channels():
    with pytest.raises(ValueError, match=r"\(1, D, H, W\)"):
        VesuviusScore(parts=CHEAP)(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))


def test_without_the_extension_only_the_topology_is_refused(monkeypatch):
    monkeypatch.setattr("custom.ops.betti._extension_file", lambda: None)
    with pytest.raises(BettiUnavailableError, match="pip install --no-deps topolosses"):
        VesuviusScore()
    with pytest.raises(BettiUnavailableError, match="pip install --no-deps topolosses"):
        score_volume(sheet(), sheet())
    assert VesuviusScore(parts=CHEAP).columns[0] == "score"
    assert score_volume(sheet(), sheet(), parts=CHEAP)["score"] == 1
