"""Cubes of a synthetic papyrus scroll, with labels of the surface that carries the writing.

The scroll is one long sheet wound around the z axis, defined by a phase: the number of turns between the core and a
point. The phase grows by one per winding, and the sheet is where it is an integer; smooth waves added to it bend the
windings and press neighbours together without letting them cross.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from custom.errors import DataError
from custom.ops.target_layout import IGNORE_LABEL

SCROLL_IDS = (101, 102, 103)
BORDER = 3

# Grey values before noise, and lengths in voxels.
AIR, PAPYRUS, RECTO_EXCESS, FIBRE, SEAM, GRAIN = 62.0, 108.0, 18.0, 15.0, 22.0, 120.0
RECTO_THICKNESS = 2.0
CONTACT_GAP = 1.0
TEXTURE_SIZE = 512

SLAB = 32
"""Planes computed at a time, to save memory: the intermediate results of a cube of 512 voxels would not fit."""


class _Scroll(NamedTuple):
    """Common to all cubes of one scroll."""

    pitch: float
    thickness: float
    turns: int
    blur: float
    noise: float
    vectors: np.ndarray  # (M, 3) wave vectors in radians per voxel
    offsets: np.ndarray  # (M,) radians
    amplitudes: np.ndarray  # (M,) turns


class _Place(NamedTuple):
    """Position of a cube in its scroll."""

    centre: np.ndarray  # (3,) voxels
    axes: np.ndarray  # (3, 3) the scroll's directions, one row for each axis of the array


def scroll_id(index: int) -> int:
    """Return the scroll of case ``index``: the group that folds do not split."""
    return SCROLL_IDS[index % len(SCROLL_IDS)]


def scroll_phantom(
    *, seed: int, index: int, size: int = 96, pitch: float = 14.0, ignore: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Make one case, which depends on the arguments alone.

    Args:
        seed: of the dataset.
        index: of the case in the dataset.
        size: edge of the cube in voxels, at least 16.
        pitch: mean distance between windings in voxels, at least 8; the sheet takes about half of it.
        ignore: fraction of the voxels within the border that are unlabelled, in [0, 1). About half in real data.

    Returns:
        image: uint8 ``(D, H, W)``; the scroll's axis is close to the first one, and 0 is the mask around the scroll.
        label: uint8 ``(D, H, W)``: 0 background, 1 recto (the two voxels of the sheet on the side of the scroll's
            core), 2 unlabelled, always including the outer 3 voxels of every face.

    Raises:
        DataError: an argument is out of its range.
    """
    check_scroll(seed=seed, index=index, size=size, pitch=pitch, ignore=ignore)
    # Streams of random numbers: 0 scrolls, 1 their cubes, 2 abdomens.
    scroll = _make_scroll(np.random.default_rng([seed, 0, index % len(SCROLL_IDS)]), pitch, size)
    rng = np.random.default_rng([seed, 1, index])
    place = _place(rng, scroll, size)
    fibres = [_texture(rng, across=1.2, along=25) for _ in ("horizontal", "vertical")]
    tears = _texture(rng, across=10, along=14)

    image = np.empty((size, size, size), np.float32)
    sheet, recto, outside = (np.empty(image.shape, bool) for _ in range(3))
    for start in range(0, size, SLAB):
        planes = slice(start, min(start + SLAB, size))
        material = _material(scroll, place, fibres, tears, planes, size)
        image[planes], sheet[planes], recto[planes], outside[planes] = material

    image = _scan(rng, scroll, image, sheet)
    _add_rings(rng, image, scroll, place)
    image = np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8)
    image[outside] = 0
    return image, _unlabel(rng, recto.astype(np.uint8), ignore)


def check_scroll(*, seed: int, size: int, pitch: float, ignore: float, index: int = 0) -> None:
    """Raise the :class:`DataError` that :func:`scroll_phantom` would raise."""
    if seed < 0 or index < 0:
        raise DataError(f"seed and index must not be negative, got {seed} and {index}")
    if size < 16:
        raise DataError(f"size must be at least 16 voxels, got {size}")
    if pitch < 8:
        raise DataError(f"pitch must be at least 8 voxels, got {pitch}")
    if not 0 <= ignore < 1:
        raise DataError(f"ignore must be a share in [0, 1), got {ignore}")


def _make_scroll(rng: np.random.Generator, pitch: float, size: int) -> _Scroll:
    pitch = pitch * rng.uniform(0.92, 1.08)
    # Slow waves bend the windings; fast ones press some together and pull others apart. The steepness of a wave is the
    # share of the even winding's slope that it adds at most.
    lengths = pitch * np.concatenate([rng.uniform(14, 30, 4), rng.uniform(4, 7, 4)])
    steepness = np.repeat([0.12, 0.2], 4)
    directions = rng.standard_normal((8, 3)) * (0.4, 1, 1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return _Scroll(
        pitch=pitch,
        thickness=pitch * rng.uniform(0.47, 0.53),
        turns=round(max(20, 2 * size / pitch)),
        blur=rng.uniform(0.8, 1.0),
        noise=rng.uniform(9, 13),
        vectors=2 * np.pi * directions / lengths[:, None],
        offsets=rng.uniform(0, 2 * np.pi, 8),
        amplitudes=steepness * lengths / (2 * np.pi * pitch),
    )


def _place(rng: np.random.Generator, scroll: _Scroll, size: int) -> _Place:
    radius = scroll.pitch * scroll.turns * rng.uniform(0.2, 0.95)
    angle = rng.uniform(-np.pi, np.pi)
    centre = np.array([rng.uniform(0, 20 * size), radius * np.sin(angle), radius * np.cos(angle)])
    skew = rng.uniform(-0.2, 0.2, (3, 3))
    skew = skew - skew.T
    axes, _ = np.linalg.qr(np.eye(3) + skew)
    return _Place(centre, axes * np.sign(np.diag(axes)))


def _material(
    scroll: _Scroll, place: _Place, fibres: list[np.ndarray], tears: np.ndarray, planes: slice, size: int
) -> tuple[np.ndarray, ...]:
    """Grey values, sheet, recto, and outside of the scroll for some planes of a cube, ``(n, H, W)`` each."""
    steps = _steps(size)
    first = max(planes.start - 1, 0)
    depths = steps[first : planes.stop + 1]  # and the planes next to them, for the slope
    own = slice(planes.start - first, planes.stop - first)
    z, y, x = _positions(place, depths, steps)
    angle = np.arctan2(y, x)
    phase = np.hypot(x, y) / scroll.pitch - angle / (2 * np.pi)
    offsets = scroll.vectors @ place.centre + scroll.offsets
    phase += _waves(scroll.vectors @ place.axes.T, offsets, scroll.amplitudes, depths, steps)
    slope = _slope(phase)[own]
    z, angle, phase = z[own], angle[own], phase[own]
    turn = np.round(phase)
    depth = (phase - turn) / slope  # voxels from the middle of the sheet, negative on the side of the core
    along = np.pi * scroll.pitch * np.square(turn + angle / (2 * np.pi))  # arc length of an even spiral

    horizontal = _look_up(fibres[0], z + 0.5 * depth, along)
    vertical = _look_up(fibres[1], along + 0.5 * depth, z)
    # The sheet is thinner where windings are pressed together: neighbours nearly touch, and never merge.
    half = 0.5 * np.minimum(scroll.thickness + 0.4 * horizontal, 1 / slope - CONTACT_GAP)
    inside = (turn >= 2) & (turn <= scroll.turns)
    torn = _look_up(tears, z, along) < -2.5
    sheet = inside & ~torn & (np.abs(depth) < half)
    recto = sheet & (depth < RECTO_THICKNESS - half)

    image = np.full_like(depth, AIR)
    grey = PAPYRUS + np.where(depth < 0, RECTO_EXCESS + FIBRE * horizontal, FIBRE * vertical)
    grey -= SEAM * np.exp(-np.square(depth))
    image[sheet] = grey[sheet]
    return image, sheet, recto, turn > scroll.turns


def _steps(size: int) -> np.ndarray:
    """Voxel positions along one axis of a cube, relative to its centre."""
    return np.arange(size) - (size - 1) / 2


def _positions(place: _Place, depths: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    """Positions of some planes' voxels in the scroll, float32 ``(n, H, W)`` along each of its axes."""
    steps = steps.astype(np.float32)
    d, h, w = depths.astype(np.float32)[:, None, None], steps[:, None], steps
    return [
        np.float32(c) + np.float32(a[0]) * d + np.float32(a[1]) * h + np.float32(a[2]) * w
        for c, a in zip(place.centre, place.axes.T, strict=True)
    ]


def _waves(
    vectors: np.ndarray, offsets: np.ndarray, amplitudes: np.ndarray, depths: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Sum of plane waves on some planes of a cube; the cosine of a sum is split, to avoid evaluation per voxel."""
    total = np.zeros((len(depths), len(steps), len(steps)), np.float32)
    for (d, h, w), offset, amplitude in zip(vectors, offsets, amplitudes, strict=True):
        plane = d * depths[:, None, None] + h * steps[:, None] + offset
        total += (amplitude * np.cos(plane)).astype(np.float32) * np.cos(w * steps).astype(np.float32)
        total -= (amplitude * np.sin(plane)).astype(np.float32) * np.sin(w * steps).astype(np.float32)
    return total


def _slope(phase: np.ndarray) -> np.ndarray:
    """Length of the gradient in turns per voxel, corrected for the jump by one turn where the angle wraps."""
    total = np.zeros_like(phase)
    for axis in range(3):
        step = np.diff(phase, axis=axis)
        step -= np.round(step)
        last = np.take(step, [-1], axis=axis)
        total += np.square(np.concatenate([step, last], axis=axis))
    return np.sqrt(total)


def _texture(rng: np.random.Generator, across: float, along: float) -> np.ndarray:
    """Periodic noise of unit variance on the unrolled sheet, smooth over ``across`` and ``along`` voxels."""
    noise = rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (across, along), mode="wrap")
    return noise / noise.std()


def _look_up(texture: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    return texture[across.astype(np.int32) % TEXTURE_SIZE, along.astype(np.int32) % TEXTURE_SIZE]


def _scan(rng: np.random.Generator, scroll: _Scroll, image: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """Simulate a scan of the material: mineral grains, blur, uneven brightness and noise."""
    grains = rng.integers(0, image.size, image.size // 20000)
    image.flat[grains] += GRAIN * sheet.flat[grains]
    image = ndimage.gaussian_filter(image, scroll.blur, truncate=3)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.55, truncate=3)
    image += np.float32(scroll.noise) / noise.std() * noise
    image += _clouds(rng, len(image), wavelength=1.5 * len(image)) * 4
    return image


def _clouds(rng: np.random.Generator, size: int, wavelength: float) -> np.ndarray:
    """Smooth random field of about unit variance."""
    vectors = rng.standard_normal((6, 3)) * 2 * np.pi / wavelength
    steps = _steps(size)
    return _waves(vectors, rng.uniform(0, 2 * np.pi, 6), np.full(6, 3**-0.5), steps, steps)


def _add_rings(rng: np.random.Generator, image: np.ndarray, scroll: _Scroll, place: _Place) -> None:
    """Ring artefacts around the axis of the turntable, which differs slightly from the scroll's."""
    shift = scroll.pitch * scroll.turns * rng.uniform(-0.5, 0.5, 2)
    profile = np.clip(rng.standard_t(2, 4096), -5, 5).astype(np.float32)
    steps = _steps(len(image))
    for start in range(0, len(image), SLAB):
        _, y, x = _positions(place, steps[start : start + SLAB], steps)
        radius = np.hypot(x - np.float32(shift[0]), y - np.float32(shift[1]))
        image[start : start + SLAB] += np.float32(2.5) * profile[radius.astype(np.int32) % len(profile)]


def _unlabel(rng: np.random.Generator, label: np.ndarray, ignore: float) -> np.ndarray:
    """Mark the border and a few large clouds as unlabelled."""
    inner = (slice(BORDER, -BORDER),) * 3
    clouds = _clouds(rng, len(label), wavelength=len(label))[inner]
    hidden = np.full_like(label, IGNORE_LABEL)
    hidden[inner] = np.where(clouds < np.quantile(clouds, ignore), IGNORE_LABEL, label[inner])
    return hidden
