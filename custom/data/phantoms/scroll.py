"""Cubes cut from a computed papyrus scroll, with the label of the surface that carries the writing.

The scroll is one long sheet wound around the z axis. Everything follows from a phase: the number of turns between the
core and a point. It grows by one from a winding to the next, so the sheet lies where it is a whole number, and smooth
waves added to it bend the windings and press neighbours together without ever letting them cross.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

SCROLL_IDS = (101, 102, 103)
BORDER = 3
BACKGROUND, RECTO, IGNORE = 0, 1, 2

# Grey values before noise, and lengths in voxels.
AIR, PAPYRUS, RECTO_EXCESS, FIBRE, SEAM, GRAIN = 62.0, 108.0, 18.0, 15.0, 22.0, 120.0
RECTO_THICKNESS = 2.0
CONTACT_GAP = 1.0
TEXTURE_SIZE = 512


class _Scroll(NamedTuple):
    """What all cubes of one scroll share."""

    pitch: float
    thickness: float
    turns: int
    blur: float
    noise: float
    vectors: np.ndarray  # (M, 3) wave vectors in radians per voxel
    offsets: np.ndarray  # (M,) radians
    amplitudes: np.ndarray  # (M,) turns


def scroll_id(index: int) -> int:
    """The scroll that case ``index`` is cut from: the group that folds keep together."""
    return SCROLL_IDS[index % len(SCROLL_IDS)]


def scroll_phantom(
    *, seed: int, index: int, size: int = 96, pitch: float = 14.0, ignore: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Make one case; it depends on the arguments alone, never on the cases made before.

    Args:
        seed: of the whole data set.
        index: of the case in the data set.
        size: edge of the cube in voxels, at least 16.
        pitch: mean distance between windings in voxels, at least 8; the sheet takes about half of it.
        ignore: share of the voxels within the border that are unlabelled, in [0, 1). Real data have about half.

    Returns:
        image: uint8 ``(D, H, W)``; the scroll's axis is near the first one, and 0 is the mask around the scroll.
        label: uint8 ``(D, H, W)``: 0 background, 1 recto (the two voxels of the sheet that face the scroll's core),
            2 unlabelled, which the outer 3 voxels of every face always are.

    Raises:
        ValueError: if an argument is out of its range.
    """
    check_scroll(seed=seed, index=index, size=size, pitch=pitch, ignore=ignore)
    # Streams of random numbers: 0 scrolls, 1 their cubes, 2 abdomens.
    scroll = _make_scroll(np.random.default_rng([seed, 0, index % len(SCROLL_IDS)]), pitch, size)
    rng = np.random.default_rng([seed, 1, index])
    centre, axes = _place(rng, scroll, size)

    z, y, x = _positions(centre, axes, size)
    angle = np.arctan2(y, x)
    phase = np.hypot(x, y) / scroll.pitch - angle / (2 * np.pi)
    phase += _waves(scroll.vectors @ axes.T, scroll.vectors @ centre + scroll.offsets, scroll.amplitudes, size)
    turn = np.round(phase)
    slope = _slope(phase)
    depth = (phase - turn) / slope  # voxels from the middle of the sheet, negative on the side of the core
    along = np.pi * scroll.pitch * np.square(turn + angle / (2 * np.pi))  # arc length of an even spiral

    horizontal = _look_up(_texture(rng, across=1.2, along=25), z + 0.5 * depth, along)
    vertical = _look_up(_texture(rng, across=1.2, along=25), along + 0.5 * depth, z)
    # Where windings are pressed together the sheet gets thinner: neighbours nearly touch, and never merge.
    half = 0.5 * np.minimum(scroll.thickness + 0.4 * horizontal, 1 / slope - CONTACT_GAP)
    inside = (turn >= 2) & (turn <= scroll.turns)
    torn = _look_up(_texture(rng, across=10, along=14), z, along) < -2.5
    sheet = inside & ~torn & (np.abs(depth) < half)
    recto = sheet & (depth < RECTO_THICKNESS - half)

    image = np.full_like(depth, AIR)
    grey = PAPYRUS + np.where(depth < 0, RECTO_EXCESS + FIBRE * horizontal, FIBRE * vertical)
    grey -= SEAM * np.exp(-np.square(depth))
    image[sheet] = grey[sheet]
    image = _scan(rng, scroll, image, sheet) + _rings(rng, x, y, scroll)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    image[turn > scroll.turns] = 0
    return image, _unlabel(rng, recto.astype(np.uint8), ignore)


def check_scroll(*, seed: int, size: int, pitch: float, ignore: float, index: int = 0) -> None:
    """Raise the :class:`ValueError` that :func:`scroll_phantom` would raise."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    if size < 16:
        raise ValueError(f"size must be at least 16 voxels, got {size}")
    if pitch < 8:
        raise ValueError(f"pitch must be at least 8 voxels, got {pitch}")
    if not 0 <= ignore < 1:
        raise ValueError(f"ignore must be a share in [0, 1), got {ignore}")


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


def _place(rng: np.random.Generator, scroll: _Scroll, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre (3,) of a cube in the scroll, and the scroll's directions (3, 3), one row for each axis of the array."""
    radius = scroll.pitch * scroll.turns * rng.uniform(0.2, 0.95)
    angle = rng.uniform(-np.pi, np.pi)
    centre = np.array([rng.uniform(0, 20 * size), radius * np.sin(angle), radius * np.cos(angle)])
    skew = rng.uniform(-0.2, 0.2, (3, 3))
    skew = skew - skew.T
    axes, _ = np.linalg.qr(np.eye(3) + skew)
    return centre, axes * np.sign(np.diag(axes))


def _positions(centre: np.ndarray, axes: np.ndarray, size: int) -> list[np.ndarray]:
    steps = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    d, h, w = steps[:, None, None], steps[:, None], steps
    return [
        np.float32(c) + np.float32(a[0]) * d + np.float32(a[1]) * h + np.float32(a[2]) * w
        for c, a in zip(centre, axes.T, strict=True)
    ]


def _waves(vectors: np.ndarray, offsets: np.ndarray, amplitudes: np.ndarray, size: int) -> np.ndarray:
    """Sum of plane waves on a cube; the cosine of a sum splits, so no wave is evaluated voxel by voxel."""
    steps = np.arange(size) - (size - 1) / 2
    total = np.zeros((size, size, size), np.float32)
    for (d, h, w), offset, amplitude in zip(vectors, offsets, amplitudes, strict=True):
        plane = d * steps[:, None, None] + h * steps[:, None] + offset
        total += (amplitude * np.cos(plane)).astype(np.float32) * np.cos(w * steps).astype(np.float32)
        total -= (amplitude * np.sin(plane)).astype(np.float32) * np.sin(w * steps).astype(np.float32)
    return total


def _slope(phase: np.ndarray) -> np.ndarray:
    """Length of the gradient in turns per voxel; the jump by one turn where the angle wraps is taken out."""
    total = np.zeros_like(phase)
    for axis in range(3):
        step = np.diff(phase, axis=axis)
        step -= np.round(step)
        last = np.take(step, [-1], axis=axis)
        total += np.square(np.concatenate([step, last], axis=axis))
    return np.sqrt(total)


def _texture(rng: np.random.Generator, across: float, along: float) -> np.ndarray:
    """Endless noise of unit variance on the unrolled sheet, smooth over ``across`` and ``along`` voxels."""
    noise = rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (across, along), mode="wrap")
    return noise / noise.std()


def _look_up(texture: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    return texture[across.astype(np.int32) % TEXTURE_SIZE, along.astype(np.int32) % TEXTURE_SIZE]


def _scan(rng: np.random.Generator, scroll: _Scroll, image: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """What a scanner makes of the material: grains of mineral, blur, uneven brightness and noise."""
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
    return _waves(vectors, rng.uniform(0, 2 * np.pi, 6), np.full(6, 3**-0.5), size)


def _rings(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scroll: _Scroll) -> np.ndarray:
    """Rings around the axis of the scanner's turntable, which is not quite the scroll's."""
    shift = scroll.pitch * scroll.turns * rng.uniform(-0.5, 0.5, 2)
    radius = np.hypot(x - np.float32(shift[0]), y - np.float32(shift[1]))
    profile = np.clip(rng.standard_t(2, 4096), -5, 5).astype(np.float32)
    return np.float32(2.5) * profile[radius.astype(np.int32) % len(profile)]


def _unlabel(rng: np.random.Generator, label: np.ndarray, ignore: float) -> np.ndarray:
    """Hide the border and a few large clouds."""
    inner = (slice(BORDER, -BORDER),) * 3
    clouds = _clouds(rng, len(label), wavelength=len(label))[inner]
    hidden = np.full_like(label, IGNORE)
    hidden[inner] = np.where(clouds < np.quantile(clouds, ignore), IGNORE, label[inner])
    return hidden
