"""Synthetic CT volumes of an abdomen, with labels of liver and tumours."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from custom.errors import DataError
from custom.ops.liver_labels import LIVER, TUMOR

from .anatomy import Canvas, Lesion, Tissue, draw_abdomen

AIR_HU = -1024

# Cases cycle through these, so that a few cover every kind. Orientations as in real files:
# array axes towards left or right, front or back, and sometimes in another order.
ORIENTATIONS = ("LPS", "RAS", "LAS", "PSR", "RPI", "LPI")
TUMOURS = (1, 3, 0, 2, 4)
PADDINGS = (None, -3024, None, -2048)  # HU outside of the scanner's field of view


class Abdomen(NamedTuple):
    """One case.

    Attributes:
        image: int16, HU; three axes in the case's orientation.
        label: uint8, the image's shape: 0 background, 1 liver (with its vessels), 2 tumour.
        tissue: uint8, the image's shape: values of :class:`~scripts.phantoms.anatomy.Tissue`.
        affine: float64 ``(4, 4)``, array index to RAS millimetres.
    """

    image: np.ndarray
    label: np.ndarray
    tissue: np.ndarray
    affine: np.ndarray


def abdomen_phantom(*, seed: int, index: int, size: int = 96, slices: int = 24, contrast: float = 30.0) -> Abdomen:
    """Make one case, which depends on the arguments alone.

    Pixels are about 400 mm / ``size`` wide and slices 1 to 5 mm apart, so patients have a realistic size on any grid.
    Orientation, number of tumours and padding outside of the field of view differ between cases.

    Args:
        seed: of the dataset.
        index: of the case in the dataset.
        size: rows and columns of a slice, at least 32.
        slices: at least 4.
        contrast: by how many HU tumours are darker than the liver on average; each differs from it by up to a third.

    Raises:
        DataError: an argument is out of its range.
    """
    check_abdomen(seed=seed, index=index, size=size, slices=slices, contrast=contrast)
    rng = np.random.default_rng([seed, 2, index])
    pixel = rng.uniform(395, 425) / size
    thickness = float(np.clip(rng.uniform(70, 240) / slices, 1, 5))
    centre = rng.uniform((-8, -18, -15), (8, -6, 20))
    x, y = (c + pixel * (np.arange(size) - (size - 1) / 2) for c in centre[:2])
    z = centre[2] + thickness * (np.arange(slices) - (slices - 1) / 2)

    canvas = Canvas(x, y, z, rng)
    lesions = draw_abdomen(canvas, TUMOURS[index % len(TUMOURS)])
    image = _scan(rng, canvas.tissue, lesions, contrast)
    padding = PADDINGS[index % len(PADDINGS)]
    if padding is not None:
        image[_out_of_view(size)] = padding
    # The patient is not at the origin of the scanner's coordinates.
    origin = np.array([x[0], y[0], z[0]]) + rng.uniform((-10, -20, -900), (10, 20, 900))
    affine = np.diag([pixel, pixel, thickness, 1.0])
    affine[:3, 3] = origin
    case = Abdomen(image, _label(canvas.tissue), canvas.tissue, affine)
    return _orient(case, ORIENTATIONS[index % len(ORIENTATIONS)])


def check_abdomen(*, seed: int, size: int, slices: int, contrast: float, index: int = 0) -> None:
    """Raise the :class:`DataError` that :func:`abdomen_phantom` would raise."""
    if seed < 0 or index < 0:
        raise DataError(f"seed and index must not be negative, got {seed} and {index}")
    if size < 32:
        raise DataError(f"size must be at least 32 pixels, got {size}")
    if slices < 4:
        raise DataError(f"slices must be at least 4, got {slices}")
    if not 0 < contrast <= 200:
        raise DataError(f"contrast must be above 0 and at most 200 HU, got {contrast}")


def _label(tissue: np.ndarray) -> np.ndarray:
    values = np.zeros(256, np.uint8)
    values[[Tissue.LIVER, Tissue.LIVER_VESSEL]] = LIVER
    values[Tissue.TUMOUR] = TUMOR
    return values[tissue]


def _tissue_hu(rng: np.random.Generator) -> dict[Tissue, float]:
    """HU of one patient in the portal venous phase; spleen, kidneys and heart overlap with the liver."""
    liver = rng.uniform(65, 108)
    vessel = liver + rng.uniform(30, 55)
    kidney = liver + rng.uniform(5, 80)
    return {
        Tissue.AIR: -1000,
        Tissue.SKIN: -10,
        Tissue.FAT: -108,
        Tissue.MUSCLE: rng.uniform(52, 66),
        Tissue.CAVITY_FAT: -100,
        Tissue.LUNG: rng.uniform(-880, -820),
        Tissue.HEART: rng.uniform(95, 150),
        Tissue.BONE: rng.uniform(500, 750),
        Tissue.MARROW: rng.uniform(150, 240),
        Tissue.DISC: 85,
        Tissue.CANAL: 25,
        Tissue.AORTA: vessel + rng.uniform(0, 30),
        Tissue.CAVA: vessel,
        Tissue.KIDNEY: kidney,
        Tissue.KIDNEY_MEDULLA: kidney - rng.uniform(0, 30),
        Tissue.SPLEEN: liver + rng.uniform(-8, 20),
        Tissue.PANCREAS: liver - rng.uniform(0, 20),
        Tissue.STOMACH_WALL: rng.uniform(60, 90),
        Tissue.BOWEL_WALL: rng.uniform(60, 95),
        Tissue.FLUID: rng.uniform(10, 40),
        Tissue.GAS: -960,
        Tissue.GALLBLADDER: rng.uniform(3, 16),
        Tissue.LIVER: liver,
        Tissue.LIVER_VESSEL: vessel,
        Tissue.TUMOUR: liver,  # darkened lesion by lesion
        Tissue.TABLE: 40,
        Tissue.FOAM: -930,
    }


def _scan(rng: np.random.Generator, tissue: np.ndarray, lesions: list[Lesion], contrast: float) -> np.ndarray:
    """HU with soft lesion rims, blur, texture and noise; int16."""
    values = np.zeros(256, np.float32)
    for name, hu in _tissue_hu(rng).items():
        values[name] = hu
    image = values[tissue]
    for box, distance in lesions:
        rim = rng.uniform(0.8, 2.0)
        depth = 1 / (1 + np.exp(np.clip(distance / np.float32(rim), -30, 30)))
        dark = values[Tissue.LIVER] - contrast * rng.uniform(2 / 3, 4 / 3)
        solid = np.isin(tissue[box], (Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.TUMOUR))
        part = image[box]
        part += np.where(solid, depth * (dark - part), 0)
    image = ndimage.gaussian_filter(image, (0.55, 0.55, 0.3), truncate=3)
    for strength, grain in ((rng.uniform(8, 14), 0.6), (rng.uniform(1, 3), 3.0)):
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, (grain, grain, 0.2), truncate=3)
        image += np.float32(strength) / noise.std() * noise
    return np.clip(np.rint(image), AIR_HU, 3071).astype(np.int16)


def _out_of_view(size: int) -> np.ndarray:
    steps = np.arange(size) - (size - 1) / 2
    return np.hypot(steps[:, None], steps) > size / 2


def _orient(case: Abdomen, codes: str) -> Abdomen:
    """Reorient arrays from RAS, with the affine, so that positions in the patient do not change."""
    from nibabel import orientations

    turn = orientations.axcodes2ornt(tuple(codes))
    turn = orientations.ornt_transform(orientations.axcodes2ornt(tuple("RAS")), turn)
    affine = case.affine @ orientations.inv_ornt_aff(turn, case.image.shape)
    arrays = [np.ascontiguousarray(orientations.apply_orientation(a, turn)) for a in case[:3]]
    return Abdomen(*arrays, affine)
