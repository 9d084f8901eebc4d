"""The figures and tables of the surface bundle's guides, from phantoms alone."""

import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fire
import numpy as np
import torch
from scipy import ndimage

from custom.data.phantoms import scroll_phantom
from custom.files import write_whole
from custom.losses import (
    BettiMatchingLoss,
    MaskedDiceCELoss,
    MedialRecallLoss,
    SoftClDiceLoss,
    SurfaceDistanceLoss,
)
from custom.metrics.vesuvius_score import PARTS, score_volume
from custom.ops.betti import betti_available, match_betti
from custom.ops.components import label_components
from custom.ops.compression import sheet_axis
from custom.ops.distance import signed_distance
from custom.ops.skeleton import medial_surface, soft_skeleton
from custom.ops.targets import surface_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES_DIR = "bundles/vesuvius_surface_3d/docs/figures"
MAX_DISTANCE = 10.0
SURE = 3.0
"""Logit of the drawn predictions: a probability of 0.95."""
RED, BLUE, GREY = "#e63946", "#4895ef", "#8d99ae"


def make_figures(output: str = FIGURES_DIR, only: str | None = None) -> None:
    """Draw the figures of bundles/vesuvius_surface_3d/docs and print its tables.

    Example: python scripts/make_figures.py

    Args:
        output: folder for the PNGs.
        only: one of loss_terms, errors, metrics, coverage; all if left out.
    """
    if only is not None and only not in FIGURES:
        sys.exit(f"error: found the figure {only!r}, expected one of {', '.join(FIGURES)}")
    for name, draw in FIGURES.items():
        if only in (None, name):
            figure, table = draw()
            path = Path(output) / f"{name}.png"
            write_whole(path, lambda file, figure=figure: figure.savefig(file, dpi=80))
            print(f"{path}\n\n{table}\n")


def draw_loss_terms() -> tuple["Figure", str]:
    """What each term of the loss looks at, on one slice with a hole, a bridge and a speck."""
    image, label = phantom_crop(48)
    surface = label == 1
    probability = _blur(surface)
    errors = make_errors(image, surface, 150)
    for name in ("pinholes", "bridges", "specks"):
        probability = np.where(errors[name] & ~surface, 0.8, np.where(errors[name] != surface, 0.1, probability))
    k = int(np.argmax(sum((errors[name] != surface).sum((1, 2)) > 0 for name in ("pinholes", "bridges", "specks"))))
    p = torch.from_numpy(probability)[None, None]
    of_prediction = soft_skeleton(p, 3)[0, 0].numpy()
    of_label = soft_skeleton(torch.from_numpy(surface.astype(np.float32))[None, None], 3)[0, 0].numpy()
    medial = medial_surface(surface)
    wrong = (probability - surface) * signed_distance(surface, MAX_DISTANCE) / MAX_DISTANCE

    figure, axes = _subplots(2, 3, (10.5, 7.2))
    _show(axes[0], image[k], "image, label (blue)", {BLUE: surface[k]})
    _show(axes[1], probability[k], "prediction p")
    _show(
        axes[2],
        np.zeros_like(image[k]),
        "clDice: skeleton of p off the label (red),\nof the label missed by p (blue)",
        {RED: of_prediction[k] * ~surface[k], BLUE: of_label[k] * (1 - probability[k])},
    )
    _show(
        axes[3],
        np.zeros_like(image[k]),
        "medial recall: medial surface (grey),\nmissed (blue)",
        {GREY: medial[k] * 0.6, BLUE: medial[k] * (1 - probability[k])},
    )
    _show(
        axes[4],
        np.zeros_like(image[k]),
        "surface distance: (p - y) phi, tripled",
        {RED: 3 * wrong[k]},
    )
    _show(axes[5], probability[k], "Betti matching: features without a partner\n(birth to death, red lines)")
    if betti_available():
        _draw_bars(axes[5], probability, surface, k)
    return figure, ""


def draw_errors() -> tuple["Figure", str]:
    """How each term and each score weighs the same number of wrong voxels, by the kind of error."""
    image, label = phantom_crop(48)
    surface = label == 1
    errors = make_errors(image, surface, 200)
    terms = loss_terms()
    target = torch.from_numpy(surface_target(surface.astype(np.uint8), MAX_DISTANCE))[None]
    perfect = {name: _value(term, surface, target) for name, term in terms.items()}
    rows = {
        kind: {name: _value(term, mask, target) - perfect[name] for name, term in terms.items()} | _scores(mask, label)
        for kind, mask in errors.items()
    }
    columns = [*terms, *_parts()]
    figure, axes = _subplots(2, 4, (10, 4.6))
    for axis, name in zip(axes, columns, strict=False):
        axis.barh(list(rows), [row[name] if name in terms else 1 - row[name] for row in rows.values()], color=RED)
        axis.invert_yaxis()
        axis.set_title(f"{name} rises by" if name in terms else f"{name} falls by", fontsize="small")
        axis.tick_params(labelsize=7)
    lines = [f"| {_wrong(errors, surface)} | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {kind} | {' | '.join(f'{row[name]:.4f}' for name in columns)} |" for kind, row in rows.items()]
    return figure, "\n".join(lines)


def draw_metrics() -> tuple["Figure", str]:
    """How the parts of the score fall with pinholes, with bridges, and with the threshold."""
    image, label = phantom_crop(90)
    surface = label == 1
    series: dict[str, tuple[str, dict[float, np.ndarray]]] = {
        "pinholes": ("voxels removed", {}),
        "bridges": ("voxels added", {}),
    }
    for kind, (_, masks) in series.items():
        for count in (0, 10, 30, 100, 300, 1000):
            masks[count] = make_errors(image, surface, count)[kind] if count else surface
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.standard_normal(surface.shape), 1)
    blurred = ndimage.gaussian_filter(surface.astype(np.float32), 0.8)
    probability = 1 / (1 + np.exp(-(9 * (blurred - 0.45) + noise / noise.std())))
    series["threshold"] = ("threshold", {t: probability >= t for t in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)})

    figure, axes = _subplots(1, 3, (11, 3.2))
    lines = [f"| what | value | Dice | {' | '.join(_parts())} |", "| --- | --- | --- |" + " --- |" * len(_parts())]
    for axis, (kind, (unit, masks)) in zip(axes, series.items(), strict=True):
        scores = {}
        for value, mask in masks.items():
            dice = 2 * (mask & surface).sum() / (mask.sum() + surface.sum())
            scores[value] = {"Dice": dice} | {
                part: score_volume(mask, label, parts=_parts())[part] for part in _parts()
            }
            numbers = " | ".join(f"{number:.3f}" for number in scores[value].values())
            lines.append(f"| {kind} | {value:g} | {numbers} |")
        for part in next(iter(scores.values())):
            axis.plot(list(scores), [row[part] for row in scores.values()], marker=".", label=part)
        axis.set(xlabel=unit, title=kind, ylim=(0, 1.02))
        if kind != "threshold":
            axis.set_xscale("symlog", linthresh=10)
            axis.set_xlim(0, max(masks))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    return figure, "\n".join(lines)


def draw_coverage() -> tuple["Figure", str]:
    """Which part of the training volumes has been seen, by epoch, for several steps an epoch."""
    volumes, batch, edge, patch, cell = 629, 2, 320, (72, 136, 136), 8
    random = np.random.default_rng(0)
    figure, axes = _subplots(1, 1, (5.5, 3.2))
    lines = ["| steps_per_epoch | patches of a volume, an epoch | seen after 1 epoch | after 32 |"]
    lines.append("| --- | --- | --- | --- |")
    for steps in (10, 250, 1000, 2000, 4000):
        each = steps * batch / volumes
        seen = np.zeros((40, *[edge // cell] * 3), bool)  # 40 volumes stand for all
        shares = []
        for _ in range(32):
            for volume in seen:
                for _ in range(random.poisson(each)):
                    start = [int(random.integers(0, edge - size + 1)) // cell for size in patch]
                    volume[tuple(slice(s, s + size // cell) for s, size in zip(start, patch, strict=True))] = True
            shares.append(seen.mean())
        axes[0].plot(range(1, 33), shares, label=f"{steps} steps")
        lines.append(f"| {steps} | {each:.2f} | {shares[0]:.1%} | {shares[-1]:.1%} |")
    axes[0].set(xlabel="epoch", ylabel="share of the voxels seen", ylim=(0, 1.02))
    axes[0].legend(fontsize="small")
    axes[0].grid(alpha=0.3)
    return figure, "\n".join(lines)


def phantom_crop(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a phantom without its unlabelled border, ``(size, size, size)`` each."""
    image, label = scroll_phantom(seed=3, index=0, size=size + 6, ignore=0.0)
    inner = (slice(3, -3),) * 3
    return image[inner].copy(), label[inner].copy()


def make_errors(image: np.ndarray, surface: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Masks that differ from ``surface`` in about ``count`` voxels each, in ways that hurt differently."""
    random = np.random.default_rng(1)
    axis = sheet_axis(image.astype(np.float32))
    away = ndimage.distance_transform_edt(~surface)
    shell = (away > 0) & (away <= 1)
    return {
        "thicker": surface | _some(shell, count, random),
        "specks": surface | _some((away > 2.5) & (away < 5), count, random),
        "pinholes": surface & ~_columns(surface, axis, count, random),
        "cut": surface & ~_cut(surface, axis, count),
        "bridges": surface | _rods(surface, axis, count, random),
    }


def _some(candidates: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    chosen = np.zeros(candidates.shape, bool)
    chosen.flat[random.permutation(np.flatnonzero(candidates))[:count]] = True
    return chosen


def _columns(surface: np.ndarray, axis: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Holes right through the sheets: all of one sheet in single columns along ``axis``."""
    sheets = np.moveaxis(label_components(surface)[0], axis, -1)
    holes = np.zeros(sheets.shape, bool)
    for d, h in random.permutation(np.argwhere((sheets > 0).any(-1))):
        if holes.sum() >= count:
            break
        column = sheets[d, h]
        holes[d, h] |= column == random.choice(column[column > 0])
    return np.moveaxis(holes, -1, axis)


def _cut(surface: np.ndarray, axis: int, count: int) -> np.ndarray:
    """A slit right across the largest sheet that one plane cuts in two with up to ``count`` voxels."""
    sheets, number = label_components(surface)
    planes = [
        (int((sheets == sheet).sum()), plane)
        for sheet in range(1, number + 1)
        for across in {0, 1, 2} - {axis}
        for position in range(surface.shape[across] // 4, 3 * surface.shape[across] // 4, 4)
        if 0 < (plane := _plane(sheets == sheet, across, position)).sum() <= count
    ]
    return max(planes, key=lambda plane: plane[0])[1] if planes else np.zeros_like(surface)


def _plane(mask: np.ndarray, axis: int, position: int) -> np.ndarray:
    """The part of a mask that lies at one position of an axis."""
    plane = np.zeros_like(mask)
    at = tuple(position if other == axis else slice(None) for other in range(mask.ndim))
    plane[at] = mask[at]
    return plane


def _rods(surface: np.ndarray, axis: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Rods one voxel wide through the gap between neighbouring sheets."""
    sheets = np.moveaxis(label_components(surface)[0], axis, -1)
    rods = np.zeros(sheets.shape, bool)
    for d, h in random.permutation(np.argwhere((sheets > 0).any(-1))):
        column = sheets[d, h]
        at = np.flatnonzero(column)
        ends = [(a, b) for a, b in pairwise(at) if column[a] != column[b] and b - a <= 16]
        if ends and rods.sum() < count:
            a, b = ends[random.integers(len(ends))]
            rods[d, h, a + 1 : b] = True
    return np.moveaxis(rods, -1, axis)


def loss_terms() -> dict[str, torch.nn.Module]:
    """The terms of train.json."""
    terms = {
        "dice_ce": MaskedDiceCELoss(),
        "cldice": SoftClDiceLoss(),
        "medial_recall": MedialRecallLoss(),
        "distance": SurfaceDistanceLoss(),
    }
    return terms | ({"betti": BettiMatchingLoss()} if betti_available() else {})


def _value(term: torch.nn.Module, mask: np.ndarray, target: torch.Tensor) -> float:
    logit = torch.from_numpy(np.where(mask, SURE, -SURE).astype(np.float32))
    return float(term(torch.stack([-logit / 2, logit / 2])[None], target))


def _parts() -> list[str]:
    return [part for part in PARTS if part != "toposcore" or betti_available()]


def _scores(mask: np.ndarray, label: np.ndarray) -> dict[str, float]:
    scores = score_volume(mask, label, parts=_parts())
    return {part: scores[part] for part in _parts()}


def _wrong(errors: Mapping[str, np.ndarray], surface: np.ndarray) -> str:
    """How many voxels are wrong, for the table's head."""
    wrong = [int((mask != surface).sum()) for mask in errors.values()]
    return f"{min(wrong)} to {max(wrong)} wrong of {int(surface.sum())}"


def _blur(surface: np.ndarray) -> np.ndarray:
    """A probability that is a little unsure along the edges."""
    return np.clip(1.6 * ndimage.gaussian_filter(surface.astype(np.float32), 0.7), 0.02, 0.98)


def _draw_bars(axis: "Axes", probability: np.ndarray, surface: np.ndarray, k: int) -> None:
    matching = match_betti(1 - np.round(probability * 32) / 32, 1.0 - surface)
    for bars in matching.prediction_unmatched:
        for birth, death in zip(bars.birth, bars.death, strict=True):
            lives = abs(probability[tuple(birth)] - probability[tuple(death)])
            if lives > 0.4 and k in (birth[0], death[0]):
                axis.plot([birth[2], death[2]], [birth[1], death[1]], color=RED, marker=".", linewidth=1)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _show(axis: "Axes", grey: np.ndarray, title: str, layers: Mapping[str, np.ndarray] | None = None) -> None:
    """A grey picture with coloured layers, opaque by their values in [0, 1]."""
    from matplotlib.colors import to_rgb

    axis.imshow(grey, cmap="gray", vmin=0, vmax=max(float(grey.max()), 1e-6))
    for colour, strength in (layers or {}).items():
        rgba = np.zeros((*strength.shape, 4))
        rgba[..., :3], rgba[..., 3] = to_rgb(colour), np.clip(strength, 0, 1)
        axis.imshow(rgba)
    axis.set_title(title, fontsize="small")
    axis.set_axis_off()


FIGURES: dict[str, Callable[[], tuple["Figure", str]]] = {
    "loss_terms": draw_loss_terms,
    "errors": draw_errors,
    "metrics": draw_metrics,
    "coverage": draw_coverage,
}


if __name__ == "__main__":
    fire.Fire(make_figures, name="make_figures.py")
