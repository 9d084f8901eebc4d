"""Shapes of a synthetic abdomen: a tissue map on a grid in patient millimetres.

x points to the patient's right, y to the front, z to the head; the origin is the middle of the body at the height of
the middle of the liver. Organs are ellipsoids with wavy surfaces, painted one after another; each replaces only certain
tissues.
"""

import itertools
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

Box = tuple[slice, ...]
EVERYWHERE: Box = (slice(None),) * 3
Point = Sequence[float]


Tissue = IntEnum(
    "Tissue",
    "AIR SKIN FAT MUSCLE CAVITY_FAT LUNG HEART BONE MARROW "
    "DISC CANAL AORTA CAVA KIDNEY KIDNEY_MEDULLA SPLEEN PANCREAS STOMACH_WALL "
    "BOWEL_WALL FLUID GAS GALLBLADDER LIVER LIVER_VESSEL TUMOUR TABLE FOAM",
    start=0,
)
"""Values of the tissue map."""

CAVITY = (Tissue.CAVITY_FAT,)
IN_LIVER = (Tissue.LIVER, Tissue.LIVER_VESSEL)


class Lesion(NamedTuple):
    """A tumour: signed distance (mm, negative inside) to its surface, and the part of the grid that it covers."""

    box: Box
    distance: np.ndarray


class Body(NamedTuple):
    """Measures of one patient in mm."""

    half_width: float
    half_depth: float
    fat: float
    muscle: float
    spine_y: float
    phases: list[float]  # four, radians: of the waves in the outline, the ribs and the spine


class Canvas:
    """A grid and the tissues painted on it.

    Args:
        x, y, z: positions of the grid's planes in mm, ascending.
        rng: for the waves in the surfaces.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> None:
        self.axes = tuple(a.astype(np.float32) for a in (x, y, z))
        self.tissue = np.zeros([len(a) for a in self.axes], np.uint8)
        self.rng = rng

    def box(self, low: Point, high: Point) -> Box:
        """Return the part of the grid between two corners."""
        edges = [np.searchsorted(a, (p, q)) for a, p, q in zip(self.axes, low, high, strict=True)]
        return tuple(slice(int(a), int(b)) for a, b in edges)

    def grid(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the coordinates in a part of the grid, each of a shape that broadcasts to the part's."""
        x, y, z = (a[s] for a, s in zip(self.axes, box, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def ellipsoid(self, centre: Point, radii: Point, wavy: float = 0.0) -> tuple[Box, np.ndarray]:
        """Return a part of the grid, and on it a function: -1 in the centre, 0 on the surface, positive outside."""
        reach = [r * (1.1 + 3 * wavy) for r in radii]
        box = self.box(*([c + sign * r for c, r in zip(centre, reach, strict=True)] for sign in (-1, 1)))
        q = [(g - np.float32(c)) / np.float32(r) for g, c, r in zip(self.grid(box), centre, radii, strict=True)]
        level = np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2) - 1
        if wavy:
            for _ in range(3):
                a, b, c = (self.rng.uniform(1.5, 3, 3) * self.rng.choice([-1, 1], 3)).tolist()
                offset = self.rng.uniform(0, 2 * np.pi)
                level += np.float32(wavy) * np.sin(a * q[0] + b * q[1] + c * q[2] + np.float32(offset))
        return box, level

    def paint(self, tissue: Tissue, box: Box, mask: np.ndarray, over: Iterable[Tissue]) -> None:
        """Replace the tissues ``over`` by ``tissue`` where the mask, which broadcasts to the box, is true."""
        part = self.tissue[box]
        part[mask & np.isin(part, list(over))] = tissue

    def blob(self, tissue: Tissue, centre: Point, radii: Point, over: Iterable[Tissue], wavy: float = 0.04) -> None:
        """Paint one ellipsoid."""
        box, level = self.ellipsoid(centre, radii, wavy)
        self.paint(tissue, box, level < 0, over)

    def rod(self, tissue: Tissue, start: Point, end: Point, radius: float, over: Iterable[Tissue]) -> None:
        """Paint a straight tube with round ends."""
        a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
        box = self.box(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        points = self.grid(box)
        direction = b - a
        share = sum((g - p) * d for g, p, d in zip(points, a, direction, strict=True)) / np.dot(direction, direction)
        share = np.clip(share, 0, 1)
        squares = sum(np.square(g - p - d * share) for g, p, d in zip(points, a, direction, strict=True))
        self.paint(tissue, box, squares < radius**2, over)


def draw_abdomen(canvas: Canvas, tumours: int) -> list[Lesion]:
    """Paint one patient, with measures drawn from the canvas's generator.

    Args:
        canvas: empty.
        tumours: number of tumours; fewer if the liver on the canvas is too small.
    """
    rng = canvas.rng
    half_depth = rng.uniform(102, 122)
    body = Body(
        half_width=rng.uniform(155, 180),
        half_depth=half_depth,
        fat=rng.uniform(8, 24),
        muscle=rng.uniform(10, 14),
        spine_y=62 - half_depth,
        phases=rng.uniform(0, 2 * np.pi, 4).tolist(),
    )
    _table(canvas, body)
    _wall(canvas, body)
    _spine(canvas, body)
    _great_vessels(canvas, body)
    diaphragm = _chest(canvas)
    _kidneys(canvas, body)
    _liver(canvas, body, diaphragm)
    _spleen(canvas, diaphragm)
    _stomach(canvas, diaphragm)
    _bowel(canvas)
    lesions = _tumours(canvas, tumours)
    _liver_vessels(canvas, body)
    for lesion in lesions:
        canvas.paint(Tissue.TUMOUR, lesion.box, lesion.distance < 0, IN_LIVER)
    return lesions


def _table(canvas: Canvas, body: Body) -> None:
    """Two curved shells of carbon fibre with foam in between."""
    x, y, _ = canvas.grid(EVERYWHERE)
    height = y + body.half_depth + 8 - np.square(x) / 900
    wide = np.abs(x) < 195
    canvas.paint(Tissue.FOAM, EVERYWHERE, (height < 0) & (height > -32) & wide, [Tissue.AIR])
    half = max(2.2, 0.6 * float(y[0, 1, 0] - y[0, 0, 0]))  # no gaps on a coarse grid
    shells = (np.abs(height) < half) | (np.abs(height + 32) < half)
    canvas.paint(Tissue.TABLE, EVERYWHERE, shells & wide, [Tissue.AIR, Tissue.FOAM])


def _wall(canvas: Canvas, body: Body) -> None:
    """Skin, fat, the abdominal wall with muscles and ribs, and the cavity filled with fat."""
    x, y, z = canvas.grid(EVERYWHERE)
    angle = np.arctan2(x, -y)  # 0 at the back
    power = 2.3
    share = ((np.abs(x) / body.half_width) ** power + (np.abs(y) / body.half_depth) ** power) ** (1 / power)
    share = share * (1 + 0.012 * np.cos(2 * angle + body.phases[0]) + 0.008 * np.cos(3 * angle + body.phases[1]))
    scale = 1 + 0.02 * np.sin(z / 60 + body.phases[2])
    depth = (np.hypot(x, y) * (scale / np.maximum(share, 1e-3) - 1)).astype(np.float32)  # mm below the skin
    fat = body.fat * (1 + 0.25 * np.cos(2 * angle) + 0.15 * np.cos(angle + body.phases[3]))
    muscle = fat + body.muscle * (1.2 + 0.3 * np.cos(angle))
    tissue = canvas.tissue
    for value, limit in ((Tissue.SKIN, 0), (Tissue.FAT, 2.5), (Tissue.MUSCLE, fat), (Tissue.CAVITY_FAT, muscle)):
        tissue[depth > limit] = value

    side = np.abs(angle)
    spacing = 30.0
    height = z + 42 * side + 10 * body.phases[0]
    off = np.abs(height - spacing * np.round(height / spacing))  # mm from the middle of the nearest rib, upwards
    middle = np.abs(depth - (fat + muscle) / 2)
    long_enough = side < 1.35 + 0.011 * (z + 100)
    behind_sternum = side < 2.75
    rib = (np.square(off / 7) + np.square(middle / 4.5) < 1) & long_enough & behind_sternum & (side > 0.25)
    canvas.paint(Tissue.BONE, EVERYWHERE, rib, [Tissue.MUSCLE])
    marrow = rib & (np.square(off / 5) + np.square(middle / 2.5) < 1)
    canvas.paint(Tissue.MARROW, EVERYWHERE, marrow, [Tissue.BONE])
    sternum = (np.square((np.pi - side) / 0.22) + np.square(middle / 5.5) < 1) & (z > 45)
    canvas.paint(Tissue.MARROW, EVERYWHERE, sternum, [Tissue.MUSCLE])


def _spine(canvas: Canvas, body: Body) -> None:
    """Back muscles, vertebrae with their processes, discs and the canal."""
    y0 = body.spine_y
    soft = [Tissue.MUSCLE, Tissue.CAVITY_FAT, Tissue.FAT]
    box = canvas.box((-75, y0 - 75, -1e4), (75, y0 + 45, 1e4))
    x, y, z = canvas.grid(box)

    def oval(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return np.square((np.abs(x) - cx) / rx) + np.square((y - y0 - cy) / ry)

    canvas.paint(Tissue.MUSCLE, box, oval(31, -34, 29, 19) < 1, soft)
    canvas.paint(Tissue.MUSCLE, box, oval(33, -4, 14, 17) < np.clip((20 - z) / 60, 0, 1), soft)  # psoas
    place = np.mod(z + 10 * body.phases[1], 34) / 34
    disc = place < 0.2
    process = (place > 0.35) & (place < 0.75)
    bone = [*soft, Tissue.BONE, Tissue.MARROW]
    canvas.paint(Tissue.BONE, box, oval(0, 0, 22, 17) < 1, bone)
    canvas.paint(Tissue.MARROW, box, oval(0, 0, 19.5, 14.5) < 1, [Tissue.BONE])
    canvas.paint(Tissue.DISC, box, (oval(0, 0, 21, 16) < 1) & disc, [Tissue.BONE, Tissue.MARROW])
    canvas.paint(Tissue.BONE, box, (oval(0, -24, 15, 13) < 1) & (place > 0.2), bone)
    arms = (np.abs(y - y0 + 26 + 0.25 * np.abs(x)) < 4.5) & (np.abs(x) < 34)
    spike = (np.abs(x) < 4) & (y < y0 - 30) & (y > y0 - 52)
    canvas.paint(Tissue.BONE, box, (arms | spike) & process, bone)
    canvas.paint(Tissue.CANAL, box, oval(0, -24, 10, 8.5) < 1, bone)


def _great_vessels(canvas: Canvas, body: Body) -> None:
    box = canvas.box((-60, -80, -1e4), (70, 40, 1e4))
    x, y, z = canvas.grid(box)
    sway = 3 * np.sin(z / 45 + body.phases[2])
    for tissue, cx, rx, ry in ((Tissue.AORTA, -9, 11, 11), (Tissue.CAVA, 24, 13, 10)):
        level = np.square((x - cx - sway) / rx) + np.square((y - body.spine_y - 29) / ry)
        canvas.paint(tissue, box, level < 1, CAVITY)


def _chest(canvas: Canvas) -> np.ndarray:
    """Lungs and heart above the diaphragm, whose height (mm) is returned, ``(X, Y, 1)``."""
    x, y, z = canvas.grid(EVERYWHERE)
    right = 82 - (np.square(x - 70) + np.square(y - 12)) / 130
    left = 70 - (np.square(x + 78) + np.square(y - 5)) / 130
    middle = 400 - np.square(x / 42) * 400 - np.square((y - 15) / 75) * 250  # mediastinum: no lung
    height = np.maximum(np.maximum(right, left), middle).astype(np.float32)
    canvas.paint(Tissue.LUNG, EVERYWHERE, z > height, CAVITY)
    chest = [Tissue.LUNG, Tissue.CAVITY_FAT]
    box, level = canvas.ellipsoid((-28, 28, 112), (62, 48, 48), 0.03)
    canvas.paint(Tissue.HEART, box, level < 0, chest)
    return height


def _kidneys(canvas: Canvas, body: Body) -> None:
    rng = canvas.rng
    for side, height in ((1, -62), (-1, -48)):
        x, y, z = side * rng.uniform(64, 70), body.spine_y + rng.uniform(4, 12), height + rng.uniform(-10, 10)
        size = rng.uniform(0.92, 1.08)
        canvas.blob(Tissue.KIDNEY, (x, y, z), (28 * size, 29 * size, 55 * size), CAVITY)
        canvas.blob(Tissue.KIDNEY_MEDULLA, (x, y, z), (19 * size, 20 * size, 43 * size), [Tissue.KIDNEY], 0.1)
        sinus = (x - side * 14, y + 6, z)
        kidney = [Tissue.KIDNEY, Tissue.KIDNEY_MEDULLA]
        canvas.blob(Tissue.FAT, sinus, (19, 12, 22), kidney, 0.08)


def _liver(canvas: Canvas, body: Body, diaphragm: np.ndarray) -> None:
    """Two smoothly joined lobes, with impressions of bowel, kidney and spine."""
    rng = canvas.rng
    size = rng.uniform(0.93, 1.05)
    shift = rng.uniform(-6, 6, 3).tolist()
    box = canvas.box((-120, -130, -130), (180, 130, 110))
    x, y, z = canvas.grid(box)

    def lobe(centre: Point, radii: Point) -> np.ndarray:
        """Relative distance to an ellipsoid, on the whole box."""
        q = [(g - c - s) / (r * size) for g, c, s, r in zip((x, y, z), centre, shift, radii, strict=True)]
        return np.sqrt(np.square(q[0]) + np.square(q[1]) + np.square(q[2]))

    reach = rng.uniform(60, 85)
    right = lobe((78, 2, -6), (82, 95, 98)) - 1
    left = lobe((-5, 52, 22), (reach, 42, 42)) - 1
    blend = np.float32(0.18)
    level = -blend * np.logaddexp(-right / blend, -left / blend)
    for _ in range(4):
        a, b, c = (rng.uniform(1 / 45, 1 / 22, 3) * rng.choice([-1, 1], 3)).tolist()
        level += np.float32(0.035) * np.sin(a * x + b * y + c * z + rng.uniform(0, 6.3))
    hollows = (
        lobe((5, 5, -85), (72, 85, 68)) - 1,  # bowel, duodenum
        lobe((66, body.spine_y + 8, -62), (35, 36, 60)) - 1,  # kidney
        lobe((-8, body.spine_y + 6, 10), (52, 48, 400)) - 1,  # spine, great vessels
        lobe((-75, -5, 10), (60, 58, 75)) - 1,  # stomach
    )
    for hollow in hollows:
        level = np.maximum(level, -0.6 * hollow)
    under = z < diaphragm[box[0], box[1]] - 3
    canvas.paint(Tissue.LIVER, box, (level < 0) & under, CAVITY)
    gallbladder = (52 + shift[0], 42 + shift[1], -42 + shift[2])
    canvas.blob(Tissue.GALLBLADDER, gallbladder, (14, 17, 27), [Tissue.CAVITY_FAT, Tissue.LIVER])


def _spleen(canvas: Canvas, diaphragm: np.ndarray) -> None:
    rng = canvas.rng
    centre = (-104 + rng.uniform(-5, 5), -36 + rng.uniform(-6, 6), 22 + rng.uniform(-10, 10))
    size = rng.uniform(0.9, 1.12)
    box, level = canvas.ellipsoid(centre, (40 * size, 58 * size, 54 * size), 0.04)
    x, y, z = canvas.grid(box)
    dent = np.sqrt(np.square((x + 62) / 40) + np.square((y - 2) / 52) + np.square((z - 10) / 80)) - 1
    mask = (level < 0) & (dent > 0) & (z < diaphragm[box[0], box[1]] - 3)
    canvas.paint(Tissue.SPLEEN, box, mask, CAVITY)


def _stomach(canvas: Canvas, diaphragm: np.ndarray) -> None:
    """Wall, fluid, and gas above the fluid: the patient is supine."""
    rng = canvas.rng
    centre = (-62 + rng.uniform(-6, 6), 32 + rng.uniform(-8, 8), 25 + rng.uniform(-10, 10))
    box, level = canvas.ellipsoid(centre, (rng.uniform(42, 54), rng.uniform(38, 50), 52), 0.06)
    _, y, z = canvas.grid(box)
    mask = (level < 0) & (z < diaphragm[box[0], box[1]] - 3)
    canvas.paint(Tissue.STOMACH_WALL, box, mask, CAVITY)
    hollow = mask & (level < -0.13)
    canvas.paint(Tissue.FLUID, box, hollow, [Tissue.STOMACH_WALL])
    canvas.paint(Tissue.GAS, box, hollow & (y > centre[1] + rng.uniform(0, 25)), [Tissue.FLUID])


def _bowel(canvas: Canvas) -> None:
    """Pancreas, and loops of bowel in the rest of the cavity, some with gas."""
    rng = canvas.rng
    bends = [(34, 8, -38), (8, 14, -28), (-30, 6, -16), (-72, -18, -2)]
    for start, end in itertools.pairwise(bends):
        canvas.rod(Tissue.PANCREAS, start, end, rng.uniform(10, 13), CAVITY)
    for place in itertools.product(range(-115, 116, 33), range(-25, 91, 29), range(-150, 21, 31)):
        if rng.random() < 0.25:
            continue
        centre = np.array(place) + rng.uniform(-12, 12, 3)
        radius = rng.uniform(12, 20)
        box, level = canvas.ellipsoid(centre, radius * rng.uniform(0.8, 1.4, 3), 0.05)
        canvas.paint(Tissue.BOWEL_WALL, box, level < 0, CAVITY)
        inner = level < -2.5 / radius
        _, y, _ = canvas.grid(box)
        canvas.paint(Tissue.FLUID, box, inner, [Tissue.BOWEL_WALL])
        if rng.random() < 0.3:
            canvas.paint(Tissue.GAS, box, inner & (y > centre[1] - 0.3 * radius), [Tissue.FLUID])


def _tumours(canvas: Canvas, count: int) -> list[Lesion]:
    """Positions for tumours within the liver, apart from one another."""
    rng = canvas.rng
    liver = canvas.tissue == Tissue.LIVER
    inside = np.flatnonzero(liver)
    found: list[tuple[np.ndarray, float]] = []
    lesions = []
    for _ in range(count if len(inside) else 0):
        radius = rng.uniform(6, 22)
        for attempt in range(80):
            index = np.unravel_index(inside[rng.integers(len(inside))], liver.shape)
            centre = np.array([a[i] for a, i in zip(canvas.axes, index, strict=True)], float)
            apart = all(np.linalg.norm(centre - c) > radius + r + 4 for c, r in found)
            if apart and _sphere_fits(canvas, liver, centre, radius):
                found.append((centre, radius))
                box, level = canvas.ellipsoid(centre, radius * rng.uniform(0.85, 1.1, 3), 0.06)
                lesions.append(Lesion(box, level * np.float32(radius)))
                break
            if attempt % 10 == 9:
                radius = max(5.0, 0.85 * radius)
    return lesions


def _sphere_fits(canvas: Canvas, liver: np.ndarray, centre: np.ndarray, radius: float) -> bool:
    """Whether points on a slightly larger sphere are liver; points outside of the scan count as liver."""
    directions = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)], float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = centre + 1.2 * radius * directions
    z = canvas.axes[2]
    points = points[(points[:, 2] >= z[0]) & (points[:, 2] <= z[-1])]
    places = [np.abs(a[:, None] - p).argmin(0) for a, p in zip(canvas.axes, points.T, strict=True)]
    return bool(liver[tuple(places)].all())


def _liver_vessels(canvas: Canvas, body: Body) -> None:
    """The portal tree from the hilum, and the hepatic veins that join the vena cava below the dome."""
    hilum = np.array([26.0, 12.0, 0.0])
    canvas.rod(Tissue.CAVA, (14, 8, -34), hilum, 6.5, CAVITY)
    for direction in ((1, -0.3, 0.25), (0.9, 0.2, -0.45), (-0.4, 1, 0.5)):
        _branch(canvas, hilum, np.array(direction), 6.0, 34.0, forks=4)
    dome = np.array([26.0, body.spine_y + 34, 55.0])
    for direction in ((1, 0.2, -0.4), (0.5, 1, -0.2), (-0.2, 1, 0.0)):
        _branch(canvas, dome, np.array(direction), 5.0, 36.0, forks=3)


def _branch(canvas: Canvas, start: np.ndarray, direction: np.ndarray, radius: float, length: float, forks: int) -> None:
    rng = canvas.rng
    direction = direction / np.linalg.norm(direction)
    end = start + length * rng.uniform(0.8, 1.2) * direction
    canvas.rod(Tissue.LIVER_VESSEL, start, end, radius, [Tissue.LIVER])
    if forks:
        turn = rng.standard_normal(3)
        turn *= 0.75 / np.linalg.norm(turn)
        for sign in (-1, 1):
            _branch(canvas, end, direction + sign * turn, 0.76 * radius, 0.78 * length, forks - 1)
