"""Make a dataset of phantoms in the folder layout of the real one."""

import sys

from scripts.command_line import command_line


def scroll(
    output: str,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 96,
    seed: int = 0,
    pitch: float = 14.0,
    ignore: float = 0.2,
) -> None:
    """Make cubes of a papyrus scroll: TIFF stacks in the layout of Kaggle's Vesuvius surface detection.

    Writes train_images/, train_labels/ and train.csv, the same for test, and held_out.json, a list of the test cases
    with their labels. The same arguments give the same files.

    Example: python scripts/make_phantoms.py scroll --output phantoms/scroll --n_train 6 --size 128

    Args:
        output: a new or empty folder.
        n_train: number of training cases.
        n_test: number of held-out cases.
        size: edge of a cube in voxels, at least 16.
        seed: determines the scrolls.
        pitch: mean distance between windings in voxels.
        ignore: fraction of unlabelled voxels within the border; about half in real data.
    """
    from scripts.phantoms import write_scrolls  # slow to import, not needed for --help

    options = {"n_train": n_train, "n_test": n_test, "size": size, "seed": seed, "pitch": pitch, "ignore": ignore}
    print(f"Phantoms are in {write_scrolls(str(output), **options)}")


def abdomen(
    output: str,
    n_train: int = 8,
    n_test: int = 2,
    size: int = 96,
    slices: int = 24,
    seed: int = 0,
    contrast: float = 30.0,
) -> None:
    """Make CT volumes of an abdomen with liver and tumours: NIfTI files with LiTS names.

    Writes volume-000.nii.gz, segmentation-000.nii.gz, ..., the held-out cases in test/, and held_out.json, a list of
    those. The same arguments give the same files.

    Example: python scripts/make_phantoms.py abdomen --output phantoms/abdomen --n_train 6 --size 128 --slices 32

    Args:
        output: a new or empty folder.
        n_train: number of training cases.
        n_test: number of held-out cases.
        size: rows and columns of a slice, at least 32; the size in mm does not depend on it.
        slices: slices per volume, at least 4.
        seed: determines the patients.
        contrast: by how many HU tumours are darker than the liver on average.
    """
    from scripts.phantoms import write_abdomens

    options = {"n_train": n_train, "n_test": n_test, "size": size, "slices": slices, "seed": seed, "contrast": contrast}
    print(f"Phantoms are in {write_abdomens(str(output), **options)}")


def zarr(output: str, size: int = 512, seed: int = 9, pitch: float = 14.0) -> None:
    """Make one large cube of a papyrus scroll as OME-Zarr, for scripts/predict_scroll.py.

    Writes scroll.zarr and label.zarr (0 background, 1 recto, 2 the unlabelled border). The same arguments give the same
    files. 512 voxels take about a minute and 4 GB of memory.

    Example: python scripts/make_phantoms.py zarr --output phantoms/zarr --size 256

    Args:
        output: a new or empty folder.
        size: edge of the cube in voxels, at least 16.
        seed: determines the scroll; with the default, part of the cube is outside of the scroll.
        pitch: mean distance between windings in voxels.
    """
    try:
        from scripts.phantoms.whole_scroll import write_zarr_scroll
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected what pip install -e '.[scroll]' installs")
    print(f"Phantoms are in {write_zarr_scroll(str(output), size=size, seed=seed, pitch=pitch)}")


if __name__ == "__main__":
    command_line({"scroll": scroll, "abdomen": abdomen, "zarr": zarr}, "make_phantoms.py")
