"""Phantoms: what the images and labels hold, and that files have the real data sets' layouts."""

import csv
import json

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage
from skimage import measure

from scripts.phantoms import abdomen_phantom, scroll_id, scroll_phantom, write_abdomens, write_scrolls
from scripts.phantoms.anatomy import Tissue
from scripts.phantoms.scroll import _make_scroll, _place

from custom.data.cases import find_cases
from custom.errors import DataError

CODES = ["LPS", "RAS", "LAS", "PSR", "RPI", "LPI"]


@pytest.fixture(scope="module")
def scrolls():
    return [scroll_phantom(seed=0, index=i, size=64) for i in range(6)]


@pytest.fixture(scope="module")
def abdomens():
    return [abdomen_phantom(seed=1, index=i, size=128, slices=32) for i in range(6)]


def world(case, mask):
    """Mean position in RAS millimetres."""
    return nibabel.affines.apply_affine(case.affine, np.argwhere(mask).mean(0))


def best_threshold_dice(pairs):
    """Dice of the best interval of grey values, chosen on the very images it is scored on."""
    values = np.concatenate([image.ravel() for image, _ in pairs])
    truth = np.concatenate([mask.ravel() for _, mask in pairs])
    levels = np.unique(np.quantile(values, np.linspace(0, 1, 80)))
    inside = np.histogram(values[truth], [*levels, np.inf])[0].cumsum()
    total = np.histogram(values, [*levels, np.inf])[0].cumsum()
    inside, total = np.r_[0, inside], np.r_[0, total]
    low, high = np.triu_indices(len(total), 1)
    return (2 * (inside[high] - inside[low]) / (total[high] - total[low] + truth.sum())).max()


# ---------------------------------------------------------------------------------------------------- scroll


def test_scroll_is_a_function_of_seed_and_index():
    image, label = scroll_phantom(seed=3, index=1, size=32)
    again = scroll_phantom(seed=3, index=1, size=32)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    for other in (scroll_phantom(seed=4, index=1, size=32), scroll_phantom(seed=3, index=2, size=32)):
        assert (image != other[0]).mean() > 0.5


def test_a_scroll_is_computed_in_slabs_without_a_trace(monkeypatch):
    monkeypatch.setattr("scripts.phantoms.scroll.SLAB", 1000)
    whole = scroll_phantom(seed=1, index=0, size=33)
    monkeypatch.setattr("scripts.phantoms.scroll.SLAB", 8)  # the last one is a single plane
    assert all(map(np.array_equal, whole, scroll_phantom(seed=1, index=0, size=33)))


def test_scroll_types_and_values(scrolls):
    for image, label in scrolls:
        assert image.shape == label.shape == (64, 64, 64)
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) == {0, 1, 2}


def test_cases_come_from_several_scrolls():
    assert len({scroll_id(i) for i in range(6)}) == 3


@pytest.mark.parametrize("ignore", [0.0, 0.2, 0.6])
def test_outer_three_voxels_are_ignored_and_so_is_the_wanted_share_within(ignore):
    _, label = scroll_phantom(seed=0, index=0, size=48, ignore=ignore)
    inner = np.zeros(label.shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    assert (label[~inner] == 2).all()
    assert (label[inner] == 2).mean() == pytest.approx(ignore, abs=0.01)


def test_recto_is_a_surface_two_voxels_thick():
    for index in range(3):
        _, label = scroll_phantom(seed=0, index=index, size=72, ignore=0)
        recto = label[3:-3, 3:-3, 3:-3] == 1
        vertices, faces, *_ = measure.marching_cubes(recto.astype(np.float32), 0.5)
        thickness = 2 * recto.sum() / measure.mesh_surface_area(vertices, faces)
        assert 1.6 < thickness < 2.2
        depth = ndimage.distance_transform_edt(np.pad(recto, 1, mode="edge"))
        assert (depth > 2.3).sum() < 0.01 * recto.sum()  # the surfaces of two windings do not merge


def test_recto_faces_the_core():
    """From the label into the papyrus is away from the axis of the scroll."""
    for index in range(4):
        size = 80
        image, label = scroll_phantom(seed=0, index=index, size=size)
        scroll = _make_scroll(np.random.default_rng([0, 0, index % 3]), 14.0, size)
        centre, axes = _place(np.random.default_rng([0, 1, index]), scroll, size)
        recto = np.argwhere(label == 1)
        outwards = (centre + (recto - (size - 1) / 2) @ axes) * (0, 1, 1)
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        brighter = np.stack(np.gradient(ndimage.gaussian_filter(image.astype(float), 1.5)), -1)[tuple(recto.T)] @ axes
        assert ((brighter * outwards).sum(1) > 0).mean() > 0.85


def test_windings_nearly_touch_somewhere_and_lie_apart_elsewhere(scrolls):
    """Steps from one recto to the next along rows and columns; a sheet is about 7 voxels thick."""
    steps = []
    for _, label in scrolls:
        recto = label == 1
        for lines in (recto.swapaxes(1, 2), recto):
            starts = np.diff(lines.astype(np.int8), axis=-1, prepend=0) == 1
            flat = np.flatnonzero(starts)
            steps += list(np.diff(flat)[np.diff(flat // 64) == 0])  # within one line
    steps = np.array(steps)
    assert 0.01 < (steps < 11).mean() < 0.2
    assert (steps > 14).mean() > 0.5


def test_papyrus_is_brighter_than_air_and_the_mask_is_zero():
    image, label = scroll_phantom(seed=0, index=1, size=128)
    assert (image == 0).mean() > 0.02
    assert (label[image == 0] != 1).all()
    assert image[label == 1].mean() > image[(label == 0) & (image > 0)].mean() + 15


def test_threshold_does_not_find_the_recto(scrolls):
    labelled = [(image[label != 2], label[label != 2] == 1) for image, label in scrolls]
    smooth = [ndimage.gaussian_filter(image, 1) for image, _ in scrolls]
    smoothed = [(s[label != 2], label[label != 2] == 1) for s, (_, label) in zip(smooth, scrolls, strict=True)]
    assert max(best_threshold_dice(labelled), best_threshold_dice(smoothed)) < 0.55


@pytest.mark.parametrize(
    "wrong", [{"size": 15}, {"pitch": 7.0}, {"ignore": 1.0}, {"ignore": -0.1}, {"seed": -1}, {"index": -1}]
)
def test_scroll_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        scroll_phantom(**{"seed": 0, "index": 0, "size": 32, **wrong})


# ---------------------------------------------------------------------------------------------------- abdomen


def test_abdomen_is_a_function_of_seed_and_index():
    case = abdomen_phantom(seed=3, index=1, size=48, slices=8)
    again = abdomen_phantom(seed=3, index=1, size=48, slices=8)
    for one, other in zip(case, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (case.image != abdomen_phantom(seed=4, index=1, size=48, slices=8).image).mean() > 0.2


def test_abdomen_types_and_values(abdomens):
    for case in abdomens:
        assert case.image.dtype == np.int16
        assert case.label.dtype == case.tissue.dtype == np.uint8
        assert case.image.shape == case.label.shape == case.tissue.shape
        assert sorted(case.image.shape) == [32, 128, 128]
        assert {0, 1} <= set(np.unique(case.label)) <= {0, 1, 2}
        liver = np.isin(case.tissue, [Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.TUMOUR])
        np.testing.assert_array_equal(case.label > 0, liver)


def test_axes_differ_and_the_affine_tells_them(abdomens):
    for case, codes in zip(abdomens, CODES, strict=True):
        assert "".join(nibabel.aff2axcodes(case.affine)) == codes
        spacing = dict(zip(codes, nibabel.affines.voxel_sizes(case.affine), strict=True))
        height = spacing.get("S", spacing.get("I"))
        assert 1 <= height <= 5
        assert sum(value == pytest.approx(height) for value in spacing.values()) == 1


def test_organs_lie_where_they_belong_in_the_world(abdomens):
    """RAS: x to the right of the patient, y to the front, z to the head."""
    for case in abdomens:
        body = world(case, ~np.isin(case.tissue, [Tissue.AIR, Tissue.TABLE, Tissue.FOAM]))
        liver, spleen = world(case, case.label > 0), world(case, case.tissue == Tissue.SPLEEN)
        assert liver[0] > body[0] + 30
        assert spleen[0] < body[0] - 60
        assert world(case, case.tissue == Tissue.CANAL)[1] < body[1] - 40
        assert world(case, case.tissue == Tissue.TABLE)[1] < body[1] - 80
        assert world(case, case.tissue == Tissue.KIDNEY)[2] < liver[2]


def test_a_patient_is_as_large_on_any_grid():
    widths = []
    for size in (64, 160):
        case = abdomen_phantom(seed=0, index=1, size=size, slices=6)  # RAS
        body = ~np.isin(case.tissue, [Tissue.AIR, Tissue.TABLE, Tissue.FOAM])
        widths.append(np.ptp(np.flatnonzero(body.any((1, 2)))) * case.affine[0, 0])
    assert 300 < widths[0] < 380
    assert widths[0] == pytest.approx(widths[1], abs=14)  # two coarse pixels


def test_number_of_tumours_and_that_they_are_inside_the_liver(abdomens):
    for case, wanted in zip(abdomens, [1, 3, 0, 2, 4, 1], strict=True):
        tumour = case.label == 2
        assert ndimage.label(tumour, np.ones((3, 3, 3)))[1] == wanted
        rim = ndimage.binary_dilation(tumour) & ~tumour
        assert (case.label[rim] == 1).all()


def test_hu_of_the_organs(abdomens):
    ranges = {
        Tissue.AIR: (-1024, -960),
        Tissue.LUNG: (-900, -600),
        Tissue.FAT: (-115, -70),
        Tissue.MUSCLE: (40, 70),
        Tissue.LIVER: (60, 110),
        Tissue.LIVER_VESSEL: (80, 165),
        Tissue.SPLEEN: (55, 130),
        Tissue.KIDNEY: (60, 190),
        Tissue.AORTA: (90, 195),
        Tissue.BONE: (250, 750),
    }
    for index, case in enumerate(abdomens):
        seen = case.image >= -1024
        assert seen.all() == (index % 2 == 0)  # every other case is padded outside the scanner's circle
        assert case.image.min() == [-1024, -3024, -1024, -2048, -1024, -3024][index]
        for tissue, (low, high) in ranges.items():
            mask = seen & (case.tissue == tissue)
            assert not mask.any() or low < np.median(case.image[mask]) < high, tissue.name


def test_tumours_are_darker_by_20_to_40_hu_with_soft_rims():
    case = abdomen_phantom(seed=0, index=4, size=192, slices=40)
    liver = case.image[case.tissue == Tissue.LIVER].mean()
    regions, count = ndimage.label(case.label == 2)
    drops = []
    for region in range(1, count + 1):
        inside = regions == region
        core = ndimage.distance_transform_edt(inside, nibabel.affines.voxel_sizes(case.affine)) > 4.5
        skin = inside & ~ndimage.binary_erosion(inside)
        if core.sum() > 50:
            drops.append(liver - case.image[core].mean())
            assert drops[-1] > liver - case.image[skin].mean() + 3
    assert len(drops) >= 2
    assert all(17 < drop < 43 for drop in drops)


def test_threshold_does_not_find_the_liver(abdomens):
    smooth = [(ndimage.gaussian_filter(case.image.astype(np.float32), 0.7), case.label > 0) for case in abdomens]
    assert best_threshold_dice(smooth) < 0.8


@pytest.mark.parametrize("wrong", [{"size": 31}, {"slices": 3}, {"seed": -1}, {"index": -1}])
def test_abdomen_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        abdomen_phantom(**{"seed": 0, "index": 0, "size": 32, "slices": 4, **wrong})


# ---------------------------------------------------------------------------------------------------- files


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_kaggle_layout(tmp_path):
    write_scrolls(tmp_path / "data", n_train=3, n_test=1, size=24, seed=5)
    folder = tmp_path / "data"
    ids = ["1000", "1001", "1002"]
    assert tree(folder) == sorted(
        [f"train_{kind}/{i}.tif" for kind in ("images", "labels") for i in ids]
        + ["test_images/1500.tif", "test_labels/1500.tif"]
        + ["train.csv", "test.csv", "held_out.json", "phantoms.json"]
    )
    with (folder / "train.csv").open() as file:
        assert list(csv.reader(file)) == [["id", "scroll_id"], ["1000", "101"], ["1001", "102"], ["1002", "103"]]
    image, label = scroll_phantom(seed=5, index=1, size=24)
    for kind, wanted in (("images", image), ("labels", label)):
        with Image.open(folder / f"train_{kind}" / "1001.tif") as file:
            pages = [np.array(page) for page in ImageSequence.Iterator(file)]
            assert file.tag_v2[259] != 1  # compressed
        np.testing.assert_array_equal(pages, wanted)
        assert pages[0].dtype == np.uint8


def test_lits_layout(tmp_path):
    folder = write_abdomens(tmp_path / "data", n_train=2, n_test=1, size=32, slices=6, seed=5)
    names = ["volume-{}.nii.gz", "segmentation-{}.nii.gz"]
    assert tree(folder) == sorted(
        [name.format(i) for name in names for i in ("000", "001")]
        + ["test/" + name.format("500") for name in names]
        + ["held_out.json", "phantoms.json"]
    )
    case = abdomen_phantom(seed=5, index=1, size=32, slices=6)
    for kind, wanted in (("volume", case.image), ("segmentation", case.label)):
        file = nibabel.load(folder / f"{kind}-001.nii.gz")
        np.testing.assert_array_equal(np.asarray(file.dataobj), wanted)
        assert file.get_data_dtype() == wanted.dtype
        assert file.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(file.affine, case.affine, atol=1e-4)


@pytest.mark.parametrize("write", [write_scrolls, write_abdomens])
def test_the_package_reads_both_layouts_and_the_list_of_held_out_cases(tmp_path, write):
    folder = write(tmp_path, n_train=3, n_test=2, size=32)
    train, held_out = find_cases(folder), find_cases(folder / "held_out.json")
    assert len(train) == 3
    assert [case["id"] for case in held_out] == [case["id"] for case in find_cases(folder, section="test")]
    assert not {case["id"] for case in train} & {case["id"] for case in held_out}
    assert len(held_out) == 2


@pytest.mark.parametrize("write", [write_scrolls, write_abdomens])
def test_files_do_not_depend_on_how_many_there_are_and_are_the_same_again(tmp_path, write):
    few = write(tmp_path / "few", n_train=1, n_test=1, size=32)
    many = write(tmp_path / "many", n_train=2, n_test=2, size=32)
    shared = [name for name in tree(few) if name.endswith((".tif", ".nii.gz"))]
    content = {name: (few / name).read_bytes() for name in shared}
    assert len(shared) == 4
    assert all((many / name).read_bytes() == content[name] for name in shared)
    write(few, n_train=1, n_test=1, size=32)
    assert {name: (few / name).read_bytes() for name in shared} == content


def test_no_held_out_cases(tmp_path):
    assert tree(write_abdomens(tmp_path, n_train=1, n_test=0, size=32, slices=4)) == [
        "phantoms.json",
        "segmentation-000.nii.gz",
        "volume-000.nii.gz",
    ]


@pytest.mark.parametrize("numbers", [{"n_train": 0}, {"n_train": 501}, {"n_test": -1}, {"n_test": 501}])
def test_refuses_numbers_of_cases_before_it_writes(tmp_path, numbers):
    with pytest.raises(ValueError, match="n_train must be 1 to 500 and n_test 0 to 500"):
        write_abdomens(tmp_path / "new", size=32, slices=4, **numbers)
    assert not (tmp_path / "new").exists()


def test_never_mixes_phantoms_with_other_files(tmp_path):
    (tmp_path / "train.csv").write_text("id,scroll_id\n1,34117\n")
    with pytest.raises(DataError, match="a folder with other files, expected an empty or a new folder"):
        write_scrolls(tmp_path, n_train=1, size=16)
    assert (tmp_path / "train.csv").read_text() == "id,scroll_id\n1,34117\n"
    assert tree(tmp_path) == ["train.csv"]


def test_never_mixes_phantoms_of_different_arguments(tmp_path):
    write_scrolls(tmp_path, n_train=1, n_test=0, size=16, seed=0)
    before = json.loads((tmp_path / "phantoms.json").read_text())
    with pytest.raises(DataError, match=r"'seed': 0.*expected.*'seed': 1"):
        write_scrolls(tmp_path, n_train=1, n_test=0, size=16, seed=1)
    assert json.loads((tmp_path / "phantoms.json").read_text()) == before
