"""The official score of one volume: octants in processes beside one process that runs the parts in turn."""

import math
import os
import resource
import time

import numpy as np
from scipy import ndimage

from custom.data.phantoms import scroll_phantom
from custom.metrics.vesuvius_score import (
    DIMENSION_WEIGHTS,
    PARTS,
    TOLERANCE,
    WEIGHTS,
    dimension_f1,
    octants,
    score_volume,
    voi_score,
    without_ignored,
)
from custom.ops.betti import betti_available
from custom.ops.betti_counts import match_counts
from custom.ops.surface_distance import surface_dice

from .measure import Row, in_a_process, not_measured, show_seconds

SIZE = 320
PROCESSES = (1, 2, 4, 8)


def run(device: str) -> list[Row]:
    """Seconds by the number of processes, their memory, and that the score is the same. The device plays no part."""
    if not betti_available():
        return [not_measured(f"score of {SIZE}^3", "topolosses is not installed", ">= 1.8")]
    prediction, label = example(SIZE)
    started = time.perf_counter()
    expected = score_in_turn(prediction, label)
    in_turn = time.perf_counter() - started
    rows, one_process, memory, scores = [], None, math.nan, {}
    for processes in PROCESSES:
        what = f"score of {SIZE}^3, {processes} process{'es' if processes > 1 else ''}"
        if processes > _cores():
            rows.append(not_measured(what, f"{_cores()} cores"))
            continue
        taken, memory, scores = in_a_process(score_in_processes, prediction, label, processes)
        one_process = one_process or taken
        theirs = f"{show_seconds(in_turn)} (the parts in turn)"
        rows.append(Row(what, show_seconds(taken), theirs, in_turn / taken, ">= 1.8" if processes == 2 else ""))
        if processes > 1:
            what = f"{processes} processes, beside one of ours"
            rows.append(Row(what, show_seconds(taken), show_seconds(one_process), one_process / taken, ""))
    difference = abs(scores["score"] - expected)
    return [
        *rows,
        Row("memory of the largest process", f"{memory:.2f} GiB", "", None, ""),
        Row("difference of the scores", f"{difference:.1e}", "0", difference, "<= 1e-12"),
    ]


def score_in_processes(prediction: np.ndarray, label: np.ndarray, processes: int) -> tuple[float, float, dict]:
    """Seconds, GiB of the largest of the processes, and the scores."""
    started = time.perf_counter()
    scores = score_volume(prediction, label, processes=processes)
    taken = time.perf_counter() - started
    return taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, scores


def score_in_turn(prediction: np.ndarray, label: np.ndarray) -> float:
    """The official score, one part after the other in this process."""
    prediction, label = without_ignored(prediction, label)
    counts = sum(match_counts(prediction[octant], label[octant]) for octant in octants(prediction.shape))
    f1 = [dimension_f1(*row) for row in counts.tolist()]
    active = [(weight, value) for weight, value in zip(DIMENSION_WEIGHTS, f1, strict=True) if not math.isnan(value)]
    toposcore = sum(weight * value for weight, value in active) / sum(weight for weight, _ in active)
    values = (toposcore, surface_dice(prediction, label, TOLERANCE), voi_score(prediction, label)["voi_score"])
    return sum(WEIGHTS[part] * value for part, value in zip(PARTS, values, strict=True))


def example(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A rough prediction of a phantom, and its label."""
    label = scroll_phantom(seed=0, index=0, size=size)[1]
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(label.shape, dtype=np.float32), 1)
    blurred = ndimage.gaussian_filter((label == 1).astype(np.float32), 0.8)
    return (blurred + 0.12 * noise / noise.std() > 0.45).astype(np.uint8), label


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
