"""Both bundles on phantoms through the command line: a short training, an evaluation on other volumes, predictions."""

import csv
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from . import phantoms
from .measure import Row, attempt, show_seconds

ROOT = Path(__file__).resolve().parents[2]
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
GOALS = {SURFACE: ("surface_dice", 0.8), LIVER: ("liver_dice", 0.9)}
"""What the quickstart reaches."""


@dataclass(frozen=True)
class Sizes:
    """The quickstart's by default; options for the bundles, further ones for some."""

    size: int = 96
    slices: int = 24
    n_train: int = 8
    n_test: int = 2
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """The score on held-out phantoms, and how long each command takes, imports included."""
    return attempt((name, lambda name=name: train_and_score(name, device, sizes)) for name in (SURFACE, LIVER))


def train_and_score(name: str, device: str, sizes: Sizes) -> list[Row]:
    """Train, evaluate and run one bundle."""
    score, least = GOALS[name]
    with TemporaryDirectory() as folder:
        out = Path(folder)
        data = phantoms.make(
            name, out / "data", n_train=sizes.n_train, n_test=sizes.n_test, size=sizes.size, slices=sizes.slices
        )
        where = {"cache_dir": out / "cache", "model_dir": out / "models"}
        options = {"device": f"$torch.device('{device}')", **where, **sizes.options.get(name, {})}
        inferring = {key: value for key, value in options.items() if key != "cache_dir"}
        held_out = {"dataset_dir": data.held_out, "subset": "all", "output_dir": out / "held_out"}
        small = ["train", "quickstart"]
        times = [
            run_bundle(name, "training", small, **options, dataset_dir=data.training, output_dir=out / "training"),
            run_bundle(name, "evaluating", [*small, "evaluate"], **options, **held_out),
            run_bundle(
                name,
                "inferring",
                ["inference", "quickstart"],
                **inferring,
                dataset_dir=data.images,
                output_dir=out / "predictions",
            ),
        ]
        history = _table(out / "training" / "metrics.csv")
        found = fmean(float(row[score]) for row in _table(out / "held_out" / "cases.csv"))
        predictions = len(list((out / "predictions").iterdir()))
    losses = [float(row["train_loss"]) for row in history]
    return [
        Row(
            f"{name}, quickstart.json, {history[-1]['step']} steps: {score} on held-out phantoms",
            f"{found:.3f}",
            f"{least} (the quickstart's goal)",
            found,
            "" if sizes.options else f">= {least}",
        ),
        Row("its loss, last epoch, first", f"{losses[-1]:.4g}", f"{losses[0]:.4g}", losses[-1] / losses[0], "<= 1"),
        Row("its training, evaluation, inference", ", ".join(map(show_seconds, times)), "", None, ""),
        Row("volumes predicted", str(predictions), str(sizes.n_test), predictions / sizes.n_test, ">= 1"),
    ]


def run_bundle(name: str, run_id: str, configs: list[str], **options: Any) -> float:
    """Seconds of ``python -m monai.bundle run``.

    Raises:
        RuntimeError: with the last line that the command printed.
    """
    root = ROOT / "bundles" / name
    files = [str(root / "configs" / f"{config}.json") for config in configs]
    given = [f"--{key}={value}" for key, value in {"bundle_root": root, **options}.items()]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", run_id, f"--config_file={files}", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{run_id} ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return time.monotonic() - started


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
