"""The cache, the datasets and the warp, beside what they replace.

Files are read many times over, so that all of them are in the page cache: what is compared is the work of decoding,
copying and converting, not the disk. Decides that volumes are kept in a cache, and that
patches are warped by our own transform. What a training item costs: section feed. The device plays no part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms import Compose, Rand3DElasticd, RandAffined

from scripts.phantoms import abdomen_phantom, scroll_phantom

from custom.data import PatchDataset, VolumeCache, read_volume, write_volume
from custom.transforms import RandWarpd

from .measure import Row, attempt, by, interleaved, show_seconds

ROTATE, SCALE, ELASTIC_VOXELS = 0.26, 0.1, 4
"""Radians, fraction, voxels: the surface bundle's settings."""


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    scroll: int = 320
    patch: tuple[int, int, int] = (72, 136, 136)
    ct: int = 512
    slices: int = 64
    repeats: int = 5


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Measure everything."""
    with TemporaryDirectory(prefix="benchmark-data-") as folder:
        scroll, ct = _scroll_case(Path(folder), sizes.scroll), _ct_case(Path(folder), sizes)
        parts: list[tuple[str, Callable[[], list[Row]]]] = [
            ("patches", lambda: patches(scroll, sizes)),
            ("slices", lambda: slices(ct, sizes)),
            ("warp", lambda: warp(sizes)),
        ]
        return attempt(parts)


def patches(case: dict[str, str], sizes: Sizes) -> list[Row]:
    """Time of a random patch of image and label, from the cache and from TIFF files."""
    cache_dir = Path(case["image"]).parent / "patches"
    cache = VolumeCache(cases=[case], cache_dir=cache_dir, modality="scroll", progress=False)
    dataset = PatchDataset(data=cache, patch_size=sizes.patch, seed=0)
    item, rng = count(), np.random.default_rng(0)

    def decode() -> list[np.ndarray]:
        arrays = [read_volume(case[key]).array for key in ("image", "label")]
        corner = rng.integers(0, np.array(arrays[0].shape) - sizes.patch, endpoint=True)
        box = tuple(slice(a, a + n) for a, n in zip(corner, sizes.patch, strict=True))
        return [array[box].copy() for array in arrays]

    ours, theirs = _beside(lambda: dataset[next(item)], decode, repeats=sizes.repeats)
    name = f"random {by(sizes.patch)} patch of image and label: cache, decode-and-crop of LZW TIFFs of {sizes.scroll}³"
    return [_compared(name, ours, theirs, ">= 100")]


def slices(case: dict[str, str], sizes: Sizes) -> list[Row]:
    """Time of a random slice, from the cache and from .nii.gz files."""
    cache_dir = Path(case["image"]).parent / "slices"
    volume = VolumeCache(cases=[case], cache_dir=cache_dir, modality="ct", progress=False)[0]
    n, rng = len(volume.image), np.random.default_rng(0)

    def compressed() -> np.ndarray:
        return np.asarray(nibabel.load(case["image"]).dataobj[..., rng.integers(n)], np.float32)

    def cached() -> np.ndarray:
        return volume.image[rng.integers(n)].astype(np.float32)

    what = f"random {sizes.ct}x{sizes.ct} slice as float32: cache, nibabel on a .nii.gz of {n} slices"
    return [_compared(what, *_beside(cached, compressed, repeats=sizes.repeats), ">= 100")]


def warp(sizes: Sizes) -> list[Row]:
    """Rotation, scaling and elastic deformation: in one resampling, or one after another."""
    image, label = scroll_phantom(seed=0, index=0, size=max(sizes.patch))
    item = {
        key: torch.from_numpy(array[: sizes.patch[0], : sizes.patch[1], : sizes.patch[2]].copy())[None]
        for key, array in {"image": image, "label": label}.items()
    }
    ours, chain = _our_warp(), _monai_chain()
    taken = interleaved([lambda: ours(dict(item)), lambda: chain(dict(item))], repeats=sizes.repeats)
    return [_compared(f"warp of a {by(sizes.patch)} patch: RandWarpd, MONAI's chain", *taken, ">= 3")]


def _scroll_case(folder: Path, size: int) -> dict[str, str]:
    """A cube and its label as LZW TIFFs; an eighth is computed and mirrored, to save time."""
    arrays = scroll_phantom(seed=0, index=0, size=size // 2)
    paths = {"image": folder / "scroll.tif", "label": folder / "scroll_label.tif"}
    for path, array in zip(paths.values(), arrays, strict=True):
        write_volume(path, np.pad(array, (0, size // 2), mode="symmetric"))
    return {"id": "scroll", "group": "scroll", **{key: str(path) for key, path in paths.items()}}


def _ct_case(folder: Path, sizes: Sizes) -> dict[str, str]:
    """An abdomen and its label as .nii.gz, (rows, columns, slices); the lower half is mirrored."""
    phantom = abdomen_phantom(seed=0, index=0, size=sizes.ct, slices=sizes.slices // 2)
    paths = {"image": folder / "volume-0.nii.gz", "label": folder / "segmentation-0.nii.gz"}
    for path, array in zip(paths.values(), phantom[:2], strict=True):
        mirrored = np.pad(array, ((0, 0), (0, 0), (0, sizes.slices // 2)), mode="symmetric")
        write_volume(path, mirrored, phantom.affine)
    return {"id": "ct", "group": "ct", **{key: str(path) for key, path in paths.items()}}


def _our_warp() -> RandWarpd:
    return RandWarpd(
        keys=["image", "label"],
        mode=["bilinear", "nearest"],
        prob=1.0,
        rotate_range=ROTATE,
        scale_range=SCALE,
        elastic_spacing=32,
        elastic_magnitude=[ELASTIC_VOXELS, ELASTIC_VOXELS],
    ).set_random_state(0)


def _monai_chain() -> Compose:
    """MONAI's transforms with the same ranges. A deformation as smooth as ours needs a sigma of 18 voxels."""
    keys, same = ["image", "label"], {"mode": ["bilinear", "nearest"], "padding_mode": "border", "prob": 1.0}
    elastic = Rand3DElasticd(keys, sigma_range=(8, 8), magnitude_range=(ELASTIC_VOXELS, ELASTIC_VOXELS), **same)
    affine = RandAffined(keys, rotate_range=[ROTATE] * 3, scale_range=[SCALE] * 3, **same)
    return Compose([elastic, affine]).set_random_state(0)


def _beside(ours: Callable[[], Any], theirs: Callable[[], Any], *, repeats: int) -> tuple[float, float]:
    """Median seconds per call of each; ours, the faster one, is called 20 times per measurement."""
    a, b = interleaved([lambda: [ours() for _ in range(20)], theirs], repeats=repeats)
    return a / 20, b


def _compared(what: str, ours: float, theirs: float, goal: str) -> Row:
    return Row(what, show_seconds(ours), show_seconds(theirs), theirs / ours, goal)
