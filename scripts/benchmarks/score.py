"""The official score of one volume, by the number of processes that share its octants.

Decides how many processes an evaluation is given: by their time, and by the memory that each of them takes.
"""

import os
import resource

import numpy as np
from scipy import ndimage

from custom.metrics.vesuvius_score import score_volume
from custom.ops.betti import betti_available
from scripts.phantoms import scroll_phantom

from .measure import Row, in_a_process, not_measured, once, show_seconds

SIZE = 320
PROCESSES = (2, 4, 8)


def run(device: str) -> list[Row]:
    """Seconds and memory by the number of processes. The device plays no part."""
    if not betti_available():
        return [not_measured(f"score of {SIZE}^3", "topolosses is not installed")]
    volumes = example(SIZE)
    alone, _ = in_a_process(score_in_processes, *volumes, 1)
    cores, rows = os.cpu_count() or 1, []
    for processes in PROCESSES:
        what = f"{processes} processes, beside one of ours"
        if processes > cores:
            rows.append(not_measured(what, f"{cores} cores"))
            continue
        taken, memory = in_a_process(score_in_processes, *volumes, processes)
        rows += [
            Row(what, show_seconds(taken), show_seconds(alone), alone / taken, ">= 1"),
            Row("memory of the largest process", f"{memory:.2f} GiB", "", None, ""),
        ]
    return rows


def score_in_processes(prediction: np.ndarray, label: np.ndarray, processes: int) -> tuple[float, float]:
    """Seconds, and GiB of the largest of the processes."""
    taken = once(lambda: score_volume(prediction, label, processes=processes))
    return taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def example(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A rough prediction of a phantom, and its label."""
    label = scroll_phantom(seed=0, index=0, size=size)[1]
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(label.shape, dtype=np.float32), 1)
    blurred = ndimage.gaussian_filter((label == 1).astype(np.float32), 0.8)
    return (blurred + 0.12 * noise / noise.std() > 0.45).astype(np.uint8), label
