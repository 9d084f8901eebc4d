"""The picture of a prediction, with scores known beforehand."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("zarr", reason="needs the extra scroll")
fire = pytest.importorskip("fire")

from scripts.draw_scroll import FALSE, FOUND, MISSED, _errors, draw_scroll  # noqa: E402

from custom.scroll.ome_zarr import Output, write_image  # noqa: E402

SHAPE = (20, 24, 28)


@pytest.fixture
def folder(tmp_path):
    """A scroll, and a label of one sheet with a border of unlabelled voxels."""
    rng = np.random.default_rng(0)
    write_image(str(tmp_path / "scroll"), rng.integers(1, 255, SHAPE, np.uint8), chunk=8)
    label = np.zeros(SHAPE, np.uint8)
    label[:, 10:12] = 1
    label[:, :, :3] = 2
    write_image(str(tmp_path / "label"), label, chunk=8, mask=True)
    return tmp_path


def predict(folder, values, kind):
    output = Output(str(folder / "prediction"), shape=SHAPE, chunk=8, shard=32, mask=kind == "mask")
    output.create({"kind": kind})
    output.write((0, 0, 0), values)


def draw(folder, *options):
    names = [f"--input={folder / 'scroll'}", f"--prediction={folder / 'prediction'}"]
    fire.Fire(draw_scroll, [*names, f"--output={folder / 'picture.png'}", *options])


@pytest.mark.parametrize(("kind", "value"), [("mask", 1), ("probability", 200)])
@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        (slice(10, 12), "Dice 1.000, SurfaceDice@2 1.000"),
        (slice(9, 11), "Dice 0.500, SurfaceDice@2 1.000"),  # one voxel off: half of it is right, all of it within 2
        (slice(0, 0), "Dice 0.000, SurfaceDice@2 0.000"),
    ],
)
def test_scores_and_picture(folder, capsys, kind, value, rows, scores):
    values = np.zeros(SHAPE, np.uint8)
    values[:, rows] = value
    values[:, :, :3] = value  # nobody knows whether that is right
    predict(folder, values, kind)
    draw(folder, f"--label={folder / 'label'}", "--at=5,10,20")
    out = capsys.readouterr().out
    assert out.splitlines() == [f"20 x 24 x 28 voxels: {scores}", f"Picture: {folder / 'picture.png'}"]
    picture = Image.open(folder / "picture.png")
    assert picture.size == (1600, 1240)  # CT, label, prediction, errors; three planes


def test_without_a_label(folder, capsys):
    predict(folder, np.zeros(SHAPE, np.uint8), "probability")
    draw(folder)
    assert capsys.readouterr().out.splitlines()[0] == "20 x 24 x 28 voxels"
    assert Image.open(folder / "picture.png").size == (800, 1240)


def test_colours_of_errors():
    image = np.full((1, 5), 51, np.uint8)
    picture = _errors(image, np.array([[True, False, True, False, True]]), np.array([[1, 1, 0, 0, 2]]))
    assert picture[0].tolist() == [list(FOUND), list(MISSED), list(FALSE), [0.2] * 3, [0.2] * 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at=1,2"], "error: at: found (1, 2), expected z,y,x within (20, 24, 28) voxels"),
        (["--at=20,2,3"], "error: at: found (20, 2, 3)"),
        (["--label=nowhere"], "error: nowhere: found nothing that opens"),
        (["--threshold=0.4"], "error: threshold: found 0.4, expected none, since the prediction is a mask"),
        (["--prediction=OTHER"], "other: found no prediction, expected one that scripts/predict_scroll.py has written"),
        (["--label=OTHER", "--input=OTHER"], "found shapes that differ"),
        (["--input=OTHER"], "found shapes that differ, {'CT': (4, 4, 4), 'prediction': (20, 24, 28)}"),
    ],
)
def test_errors_are_one_line(folder, options, message):
    predict(folder, np.zeros(SHAPE, np.uint8), "mask")
    write_image(str(folder / "other"), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(SystemExit) as caught:
        draw(folder, *(option.replace("OTHER", str(folder / "other")) for option in options))
    assert message in str(caught.value.code)
    assert "\n" not in str(caught.value.code)
    assert not (folder / "picture.png").exists()


@pytest.mark.parametrize("threshold", [-0.1, 1, 40])
def test_thresholds_are_probabilities(folder, threshold):
    predict(folder, np.zeros(SHAPE, np.uint8), "probability")
    with pytest.raises(SystemExit, match=f"threshold: found {threshold}, expected a probability"):
        draw(folder, f"--threshold={threshold}")


def test_labels_of_255_are_refused(folder):
    write_image(str(folder / "label"), np.full(SHAPE, 255, np.uint8), chunk=8)
    predict(folder, np.zeros(SHAPE, np.uint8), "mask")
    with pytest.raises(SystemExit, match="label: found a value of 255, expected 0 background"):
        draw(folder, f"--label={folder / 'label'}")


def test_an_unfinished_prediction_is_refused(folder):
    output = Output(str(folder / "prediction"), shape=SHAPE, chunk=8, shard=16, mask=True)
    output.create({"kind": "mask"})
    output.write((0, 0, 0), np.ones((16, 16, 16), np.uint8))
    with pytest.raises(SystemExit, match="found 1 of 8 shards written, expected a prediction that is finished"):
        draw(folder)


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        fire.Fire(draw_scroll, ["--help"])
    assert caught.value.code == 0
    answer = capsys.readouterr()
    assert "python scripts/draw_scroll.py --input" in " ".join((answer.out + answer.err).split())
