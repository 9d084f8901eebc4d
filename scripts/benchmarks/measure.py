"""Common parts of the sections: rows, timing, and the bundles' configurations."""

import gc
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from scripts.phantoms import write_abdomens, write_scrolls

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
FULL = {SURFACE: ("exp001_full",), LIVER: ("v2_unetplusplus",)}
"""Override files of the largest network with all terms of the loss, for which goals are set."""

FAILED = "failed"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """One comparison. ``ratio`` is theirs / ours where more is better, ours / theirs where less is."""

    what: str
    ours: str
    theirs: str
    ratio: float | None
    goal: str
    """``">= 5"``, ``"<= 1.05"``, or empty without a requirement."""

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches the goal; None if nothing was measured or required."""
        if self.ours == FAILED:
            return False
        if self.ratio is None or not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)

    def as_dict(self) -> dict[str, Any]:
        """Return the row for the JSON file."""
        return asdict(self) | {"met": self.met}


def not_measured(what: str, reason: str, goal: str = "") -> Row:
    """Return a row that says that nothing was measured."""
    return Row(what, "not measured", reason, None, goal)


def attempt(parts: Iterable[tuple[str, Callable[[], list[Row]]]]) -> list[Row]:
    """Return the rows of all parts; an error in one part becomes a row, and the others still run."""
    rows: list[Row] = []
    for what, part in parts:
        print(f"... {what}", file=sys.stderr, flush=True)
        try:
            rows += part()
        except Exception as error:  # must not affect other parts
            traceback.print_exc()
            text = " ".join(str(error).split())
            rows.append(Row(what, FAILED, f"{type(error).__name__}: {text[:200]}".replace("|", "/"), None, ""))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def interleaved(works: list[Callable[[], Any]], *, repeats: int, device: str = "cpu") -> list[float]:
    """Return the median seconds of each work, after one call that is not counted.

    They are called alternately, so that a change in the machine's speed affects all alike.
    """
    for work in works:
        work()
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, times in zip(works, taken, strict=True):
            times.append(once(work, device))
    return [statistics.median(times) for times in taken]


def once(work: Callable[[], Any], device: str = "cpu") -> float:
    """Return the seconds of one call, including the GPU's queue."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def share_outside(work: Callable[[Callable], Any], network: Callable, device: str = "cpu") -> float:
    """Return the fraction of the time of ``work(network)`` that is spent outside of the network."""
    inside: list[float] = []

    def timed(batch: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        inside.append(once(lambda: outputs.append(network(batch)), device))
        return outputs[0]

    whole = once(lambda: work(timed), device)
    return 1 - sum(inside) / whole


def taught(network: torch.nn.Module, loss: Callable, batches: Iterable[Sequence[torch.Tensor]], steps: int) -> Any:
    """Return the network after a short training on images and labels, so that it predicts clear masks."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    for image, label in islice(batches, steps):
        optimizer.zero_grad()
        loss(network.train()(image), label).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def in_a_process(work: Callable[..., Result], *args: object) -> Result:
    """Return the result of ``work(*args)`` in a new process, whose memory has not been used before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def wait(device: str) -> None:
    """Wait until the GPU has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(device: str) -> str:
    """Return a description of the machine."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show_seconds(value: float) -> str:
    """Format as ``12.3 ms`` or ``4.56 s``."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def by(sizes: Sequence[int]) -> str:
    """Format as ``2 x 72 x 136``."""
    return " x ".join(map(str, sizes))


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the Dice of two masks."""
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


def read_config(bundle: str, *names: str) -> "ConfigParser":
    """Read configurations of a bundle; later ones override earlier ones."""
    from monai.bundle import ConfigParser  # slow to import, not needed for --help

    files = [str(BUNDLES / bundle / "configs" / f"{name}.json") for name in names]
    return ConfigParser(ConfigParser.load_config_files(files))


def small_data(bundle: str, folder: Path, scroll: int, ct: int) -> dict[str, Any]:
    """Make phantoms of two training cases, unless they are there, and return the options that use them."""
    data = folder / bundle
    if not data.exists() and bundle == SURFACE:
        write_scrolls(data, n_train=2, n_test=0, size=scroll)
    elif not data.exists():
        write_abdomens(data, n_train=2, n_test=0, size=ct, slices=16)
    return {"dataset_dir": str(data), "cache_dir": str(folder / f"{bundle}-cache"), "n_folds": 2, "num_workers": 0}


def training(
    bundle: str, folder: Path, device: str, scroll: int, ct: int, configs: Sequence[str] = (), **options: Any
) -> "ConfigWorkflow":
    """Return the initialized training of a bundle on phantoms of the given sizes, in a folder."""
    from monai.bundle import ConfigWorkflow

    root = BUNDLES / bundle
    folders = {key: str(folder / f"{bundle}-{key}") for key in ("model_dir", "output_dir")}
    flow = ConfigWorkflow(
        [str(root / "configs" / f"{name}.json") for name in ("train", *configs)],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(root),
        device=f"$torch.device('{device}')",
        **small_data(bundle, folder, scroll, ct) | folders | options,
    )
    flow.initialize()
    return flow
