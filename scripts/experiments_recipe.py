"""Comparison of training recipes at equal processor time, on phantoms of scrolls that none was trained on."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.command_line import command_line
from scripts.experiments.commands import ROOT, children_seconds, chosen, run_bundle, run_python

from custom.data.volumes import read_volume
from custom.handlers.panels import draw_panel
from custom.metrics.vesuvius_score import PARTS
from custom.ops.target_layout import IGNORE_LABEL
from custom.system.files import write_whole

BUNDLE = ROOT / "bundles" / "vesuvius_surface_3d"
ARMS = ROOT / "scripts" / "experiments" / "recipe"
NNUNET = "nnunet"

COLUMNS = ("score", *PARTS)
TEST_SETS = {"unseen scrolls": {"seed": 1}, "other sheets": {"seed": 2, "pitch": 10}}
"""Arguments of the phantoms that are scored; those for training have seed 0 and the default pitch."""

SMALL = ROOT / "scripts" / "experiments" / "small.json"
"""Overrides that make the bundle small enough for a CPU core; an arm may change them."""

FEW, MANY = 8, 40
"""Steps of two short trainings, whose difference is the time of a step: it covers all terms with an interval."""


def experiment(
    output: str = "experiments/recipe",
    arms: str | Sequence[str] = ("default",),
    seconds: float = 1200,
    steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    size: int = 128,
    n_train: int = 14,
    n_test: int = 4,
    nnunet: str | None = None,
) -> None:
    """Train each arm for the same processor time, score it, and print a Markdown table.

    An arm is an override file of train.json in scripts/experiments/recipe, or nnunet: nnU-Net with its own
    augmentation, loss and optimizer. Patches (48^3), batch size (2), and volumes are the same for all. The
    number of steps follows from the time of a step, which is measured first. Predictions are not post-processed:
    threshold 0.5, no test-time augmentation. Finished trainings are not repeated: the same command continues after an
    interruption, and shows all arms in the folder. The first volume of each set is drawn with its errors as a PNG in
    the training's folder.

    Example: OMP_NUM_THREADS=1 python scripts/experiments_recipe.py --arms default,sgd --seconds 1200

    Args:
        output: folder for phantoms, weights, predictions and scores.
        arms: names of override files, or nnunet.
        seconds: processor seconds of a training, over all threads and processes.
        steps: optimizer steps of an override file's training instead: other work on the machine makes the short
            trainings that measure a step unreliable. The seconds that it took are in the table in either case.
        seeds: a training for each, of every arm.
        size: edge of a phantom in voxels.
        n_train: training volumes.
        n_test: volumes of each set that is scored.
        nnunet: Python of an environment with nnunetv2, for the arm of this name.
    """
    known = [NNUNET, *sorted(path.stem for path in ARMS.glob("*.json"))]
    out = Path(str(output)).resolve()
    data = _phantoms(out / "phantoms", size, n_train, n_test)
    for arm in chosen(arms, known):
        for seed in seeds:
            folder = out / arm / f"seed_{seed}"
            if not (folder / "result.json").exists():
                if arm == NNUNET:
                    done, used = _train_nnunet(nnunet, seed, seconds, data, folder)
                else:
                    done, used = _train_arm(arm, seed, seconds, steps, data, folder)
                draw_first(data, folder)
                result = {"steps": done, "seconds": used, "scores": _scores(data, folder)}
                write_whole(folder / "result.json", lambda path, r=result: path.write_text(json.dumps(r, indent=1)))
    print(f"\n{table(out)}\n\nEverything lies in {out}")


def _phantoms(folder: Path, size: int, n_train: int, n_test: int) -> dict[str, Path]:
    """Make the phantoms; returns the folder of each set, that for training as ``train``."""
    sets = {"train": {"n_train": n_train, "n_test": 0}}
    sets |= {name: {"n_train": 1, "n_test": n_test, **options} for name, options in TEST_SETS.items()}
    for name, options in sets.items():
        run_python("scripts/make_phantoms.py", "scroll", output=folder / name, size=size, **options)
    return {name: folder / name for name in sets}


def _train_arm(
    arm: str, seed: int, seconds: float, steps: int | None, data: Mapping[str, Path], folder: Path
) -> tuple[int, float]:
    """Train the bundle with an override file, and predict all sets; returns steps and processor seconds."""
    options = {"dataset_dir": data["train"], "cache_dir": data["train"].parent / "cache", "seed": seed}
    options |= {
        "epochs": 1,
        "val_interval": 2,
        "n_folds": 2,
        "train#dataset#data": "@cases",
        "num_workers": 0,
        "overwrite": True,
    }

    def train(steps: int, name: str) -> float:
        before = children_seconds()
        places = {"model_dir": folder / name / "models", "output_dir": folder / name / "training"}
        run_bundle(BUNDLE, "training", ["train", SMALL, ARMS / arm], steps_per_epoch=steps, **options, **places)
        return children_seconds() - before

    if steps is None:
        few = train(FEW, "calibration")
        step = (train(MANY, "calibration") - few) / (MANY - FEW)
        steps = max(1, round((seconds - few) / step))
    used = train(steps, "full")
    network = folder / "network.json"
    network.write_text(json.dumps(_network(arm)), encoding="utf-8")
    for name in TEST_SETS:
        places = {"dataset_dir": data[name] / "test_images", "output_dir": folder / "predictions" / name}
        weights = folder / "full" / "models" / "model_final.pt"
        run_bundle(BUNDLE, "inferring", ["inference", SMALL, network], **places, checkpoint=weights)
    return steps, used


def _network(arm: str) -> dict[str, Any]:
    """The overrides of an arm that inference needs as well."""
    changed = json.loads((ARMS / f"{arm}.json").read_text(encoding="utf-8"))
    return {key: value for key, value in changed.items() if key.startswith("network_def")}


def _train_nnunet(
    python: str | None, seed: int, seconds: float, data: Mapping[str, Path], folder: Path
) -> tuple[int, float]:
    """Train nnU-Net in its own environment, and predict all sets; returns steps and processor seconds."""
    if python is None:
        raise SystemExit("error: nnunet: found no Python of its environment, expected --nnunet path/to/bin/python")
    images = {name: data[name] / "test_images" for name in TEST_SETS}
    words = {
        "data": data["train"],
        "output": folder,
        "seconds": seconds,
        "seed": seed,
        "test": json.dumps(images, default=str),
    }
    run_python(ROOT / "scripts" / "experiments" / "nnunet_arm.py", python=python, **words)
    done = json.loads((folder / "nnunet.json").read_text(encoding="utf-8"))
    return done["steps"], done["seconds"]


def _scores(data: Mapping[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Mean official score and its parts of each set."""
    scores = {}
    for name in TEST_SETS:
        file = folder / f"scores of {name}.json"
        run_python("scripts/score.py", "vesuvius", folder / "predictions" / name, data[name] / "test_labels", json=file)
        scores[name] = json.loads(file.read_text(encoding="utf-8"))["mean"]
    return scores


def draw_first(data: Mapping[str, Path], folder: Path) -> None:
    """Draw a slice of each set's first volume, its label, its prediction and the errors."""
    for name in TEST_SETS:
        prediction = min((folder / "predictions" / name).glob("*.tif"))
        places = (data[name] / "test_images", data[name] / "test_labels", prediction.parent)
        image, label, mask = (read_volume(place / prediction.name).array for place in places)
        figure = draw_panel(image, label, mask, title=f"{name}, {prediction.stem}", ignored=IGNORE_LABEL)
        write_whole(folder / f"{name}.png", lambda path, figure=figure: figure.savefig(path, dpi=100))


def table(out: Path) -> str:
    """Return mean and standard deviation over the seeds of every arm in a folder, in Markdown."""
    lines = [
        f"| arm | set | seeds | steps | seconds | {' | '.join(COLUMNS)} |",
        "| --- |" * 1 + " --- |" * (4 + len(COLUMNS)),
    ]
    for folder in sorted({path.parent.parent for path in out.glob("*/seed_*/result.json")}):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed_*/result.json"))]
        for name in TEST_SETS:
            rows = [result["scores"][name] for result in results]
            cells = [folder.name, name, str(len(rows))]
            cells += [f"{statistics.mean(result[key] for result in results):.0f}" for key in ("steps", "seconds")]
            cells += [_spread([row[column] for row in rows]) for column in COLUMNS]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


if __name__ == "__main__":
    command_line(experiment, "experiments_recipe.py")
