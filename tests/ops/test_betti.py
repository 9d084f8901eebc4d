import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from custom.ops import betti
from custom.ops.betti import BettiUnavailableError, betti_available, betti_extension, match_betti
from custom.ops.components import betti_numbers

needs_betti = pytest.mark.skipif(not betti_available(), reason=betti.INSTALL)

ROOT = Path(__file__).resolve().parents[2]


def as_volume(mask):
    """The foreground first, as the sublevel filtration wants it."""
    return (~mask).astype(np.uint8)


def random_masks(count, shape=(6, 7, 5)):
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield tuple(generator.random(shape) < generator.choice([0.1, 0.4, 0.7]) for _ in range(2))


@needs_betti
def test_masks_have_the_features_that_components_and_the_euler_characteristic_tell():
    for prediction, label in random_masks(40):
        counts = match_betti(as_volume(prediction), as_volume(label)).counts()
        assert counts[:, 1].tolist() == betti_numbers(prediction).tolist()
        assert counts[:, 2].tolist() == betti_numbers(label).tolist()
        assert (counts[:, 0] <= counts[:, 1:].min(axis=1)).all()


@needs_betti
def test_a_mask_matches_itself():
    for mask, _ in random_masks(10):
        counts = match_betti(as_volume(mask), as_volume(mask)).counts()
        assert (counts == betti_numbers(mask)[:, None]).all()


@needs_betti
def test_components_of_a_subset_match_the_components_they_lie_in():
    """Where the prediction lies within the label, each label component that it reaches is matched, less the first."""
    generator = np.random.default_rng(1)
    for prediction, label in random_masks(40):
        part = label & prediction & (generator.random(label.shape) < 0.3)
        if not part.any():
            continue
        reached = len(np.unique(ndimage.label(label)[0][part]))
        assert match_betti(as_volume(part), as_volume(label)).counts()[0, 0] == reached - 1


@needs_betti
def test_bars_of_grey_values_by_hand():
    """A path over two hills: minima 0, 1 and 2 between maxima 5 and 4. The younger minimum dies at each hill."""
    row = np.array([0, 5, 1, 4, 2, 6], np.float64).reshape(1, 1, 6)
    other = np.array([0, 5, 1, 3, 2, 6], np.float64).reshape(1, 1, 6)
    matching = match_betti(row, other)
    assert matching.counts().tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 0]]
    bars = {
        (row[tuple(birth)], row[tuple(death)]) for birth, death in zip(*(matching.prediction_matched[0]), strict=True)
    }
    assert bars == {(2, 4), (1, 5)}
    for mine, theirs in zip(matching.prediction_matched[0].birth, matching.label_matched[0].birth, strict=True):
        assert mine.tolist() == theirs.tolist()  # the partner is the minimum at the same place


@needs_betti
def test_birth_is_before_death_in_every_group():
    generator = np.random.default_rng(0)
    prediction, label = generator.random((2, 6, 6, 6))
    matching = match_betti(prediction, label)
    for volume, groups in (
        (prediction, (matching.prediction_matched, matching.prediction_unmatched)),
        (label, (matching.label_matched, matching.label_unmatched)),
    ):
        for bars in (bars for group in groups for bars in group):
            assert bars.birth.shape == bars.death.shape == (len(bars.birth), 3)
            assert (volume[tuple(bars.birth.T)] < volume[tuple(bars.death.T)]).all()


@needs_betti
@pytest.mark.parametrize("shapes", [((3, 3, 3), (3, 3, 4)), ((3, 3), (3, 3)), ((1, 3, 3, 3), (1, 3, 3, 3))])
def test_ill_shapes(shapes):
    with pytest.raises(ValueError, match=r"\(D, H, W\)"):
        match_betti(*(np.zeros(shape) for shape in shapes))


@needs_betti
def test_neither_the_package_nor_torch_is_imported():
    code = (
        "import sys, custom.ops.betti as b; b.betti_extension(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('topolosses', 'torch', 'torchvision', 'cv2')])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_where_it_is_missing_the_message_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(betti.metadata, "distribution", missing)
    assert not betti_available()
    with pytest.raises(BettiUnavailableError, match=r"pip install --no-deps topolosses=="):
        betti_extension()


def test_a_file_that_does_not_load_is_reported(tmp_path, monkeypatch):
    broken = tmp_path / "betti_matching.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(betti, "_extension_file", lambda: broken)
    with pytest.raises(BettiUnavailableError, match="does not load"):
        betti_extension()
