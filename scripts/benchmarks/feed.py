"""What feeding a GPU takes of the processor: time of a training item, and cores.

Decides which transforms have to become faster, or move to the GPU. Processor time of one core, in which other work of
the machine does not count; of phantoms, whose files are in the page cache. The device plays no part.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from monai.transforms import Compose, compose

from .measure import LIVER, SURFACE, Row, attempt, read_config, small_data

STEP_S = 0.1
"""Seconds of a step of the surface bundle that the loader has to keep up with."""
SLICES_PER_S = 300


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    scroll: int = 160
    patch: tuple[int, int, int] = (72, 136, 136)
    ct: int = 512
    items: int = 40


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Measure both bundles."""
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="benchmark-feed-") as folder:
        return attempt((bundle, lambda bundle=bundle: feed(bundle, Path(folder), sizes)) for bundle in (SURFACE, LIVER))


def feed(bundle: str, folder: Path, sizes: Sizes) -> list[Row]:
    """Rows of a bundle."""
    parser = read_config(bundle, "train")
    parser.update(small_data(bundle, folder, sizes.scroll, sizes.ct))
    parser.update({"patch_size": list(sizes.patch)} if bundle == SURFACE else {"slice_size": [sizes.ct, sizes.ct]})
    dataset, batch_size = parser.get_parsed_content("train#dataset"), parser["batch_size"]
    times, whole = defaultdict(list), []
    dataset[0], dataset[1]
    with _timing(times):
        for k in range(2, 2 + sizes.items):
            started = time.thread_time()
            dataset[k]
            whole.append(time.thread_time() - started)
    item = sum(whole) / len(whole)
    parts = [_part(name, found, len(whole)) for name, found in times.items()]
    cores, rate, goals = SLICES_PER_S * item, f"{SLICES_PER_S} slices a second", ("<= 6", "<= 2")
    if bundle == SURFACE:
        cores, rate, goals = batch_size * item / STEP_S, f"{STEP_S:g} s a step of {batch_size}", ("<= 30", "<= 2")
    return [
        Row(f"{bundle}: an item on one core, ms", f"{1e3 * item:.0f}", "", 1e3 * item, goals[0]),
        *sorted(parts, key=lambda row: -float(row.ours)),
        Row(f"{bundle}: cores for {rate}", f"{cores:.1f}", "", cores, goals[1]),
    ]


def _part(name: str, found: list[tuple[float, bool]], items: int) -> Row:
    applied = [seconds for seconds, was_applied in found if was_applied]
    mean = 1e3 * sum(seconds for seconds, _ in found) / items
    when = f"{1e3 * sum(applied) / len(applied):.0f} when applied" if 0 < len(applied) < len(found) else ""
    return Row(f"of it {name}, ms", f"{mean:.1f}", when, None, "")


@contextmanager
def _timing(times: dict[str, list[tuple[float, bool]]]) -> Iterator[None]:
    """Note processor seconds of each transform by name, and whether a random one was applied."""
    original: Callable = compose.apply_transform

    def timed(transform: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.thread_time()
        result = original(transform, *args, **kwargs)
        if not isinstance(transform, Compose):
            seconds = time.thread_time() - started
            times[type(transform).__name__].append((seconds, getattr(transform, "_do_transform", True)))
        return result

    with mock.patch.object(compose, "apply_transform", timed):
        yield
