"""Comparison of training recipes at equal processor time, on phantoms that none was trained on."""

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.command_line import command_line
from scripts.experiments.commands import ROOT, children_seconds, chosen, markdown, run_bundle, run_python
from scripts.experiments.problems import PROBLEMS, Problem
from scripts.nnunet.cases import ARMS, DATASET, write_dataset, write_images
from scripts.phantoms.layouts import HELD_OUT
from scripts.reports.runs import spread

from custom.configuration import differences
from custom.data import find_cases
from custom.errors import DataError
from custom.handlers.panels import draw_panel
from custom.system.files import write_json, write_whole

NNUNET = "nnunet"

FEW, MANY = 8, 40
"""Steps of two short trainings, whose difference is the time of a step: it covers all terms with an interval."""


def experiment(
    output: str = "experiments/recipe",
    bundle: str = "vesuvius_surface_3d",
    arms: str | Sequence[str] = ("default",),
    seconds: float = 1200,
    steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    nnunet: str | None = None,
) -> None:
    """Train each arm for the same processor time, score it, and print a Markdown table.

    An arm is an override file of train.json in scripts/experiments/arms, or nnunet: nnU-Net with its own augmentation,
    loss and optimizer. Patches (48^3, or slices of 96 x 96), batch size (2, or 8), and volumes are the same for all.
    The number of steps follows from the time of a step, which is measured first. Predictions are not post-processed:
    threshold 0.5, no test-time augmentation. Finished trainings are not repeated: the same command continues after an
    interruption, and shows all arms in the folder; other options for the same arm and seed are refused. The first
    volume of each set is drawn with its errors as a PNG in the training's folder.

    Example: OMP_NUM_THREADS=1 python scripts/experiments_recipe.py --arms default,exp001 --seconds 1200

    Args:
        output: folder for phantoms, weights, predictions and scores, in a folder for each bundle.
        bundle: the bundle to train.
        arms: names of override files, or nnunet.
        seconds: processor seconds of a training, over all threads and processes.
        steps: optimizer steps of an override file's training instead: other work on the machine makes the short
            trainings that measure a step unreliable. The seconds that it took are in the table in either case.
        seeds: a training for each, of every arm.
        nnunet: Python of an environment with nnunetv2, for the arm of this name.
    """
    problem = PROBLEMS[chosen(bundle, list(PROBLEMS))[0]]
    known = [NNUNET, *sorted(path.stem for path in problem.arms.glob("*.json"))]
    out = Path(str(output)).resolve() / problem.name
    data = _phantoms(problem, out / "phantoms")
    for arm in chosen(arms, known):
        for seed in seeds:
            folder = out / arm / f"seed_{seed}"
            options = {"seconds": seconds, "steps": steps, "overrides": _overrides(problem, arm)}
            if not _is_finished(folder, options):
                if arm == NNUNET:
                    done, used = _train_nnunet(problem, nnunet, seed, seconds, data, folder)
                else:
                    done, used = _train_arm(problem, arm, seed, seconds, steps, data, folder)
                draw_first(problem, data, folder)
                result = {"steps": done, "seconds": used, "scores": _scores(problem, data, folder), "options": options}
                write_json(folder / "result.json", result)
    print(f"\n{table(problem, out)}\n\nEverything lies in {out}")


def _overrides(problem: Problem, arm: str) -> list[Any]:
    files = [] if arm == NNUNET else [problem.small, problem.arms / f"{arm}.json"]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _is_finished(folder: Path, options: Mapping[str, Any]) -> bool:
    """Whether a training is finished.

    Raises:
        DataError: it was made with other options.
    """
    file = folder / "result.json"
    if not file.exists():
        return False
    if text := differences(json.loads(file.read_text(encoding="utf-8")).get("options", options), options):
        raise DataError.of(file, f"a training with other options ({text})", "the same, or another --output")
    return True


def _phantoms(problem: Problem, folder: Path) -> dict[str, Path]:
    """Make the phantoms; returns the folder of each set, that for training as ``train``."""
    sets: dict[str, dict[str, Any]] = {"train": {"n_train": problem.n_train, "n_test": 0}}
    sets |= {name: {"n_train": 1, "n_test": problem.n_test, **options} for name, options in problem.test_sets.items()}
    for name, options in sets.items():
        words = ("scripts/make_phantoms.py", problem.phantoms)
        run_python(*words, output=folder / name, size=problem.size, **options)
    return {name: folder / name for name in sets}


def _train_arm(
    problem: Problem,
    arm: str,
    seed: int,
    seconds: float,
    steps: int | None,
    data: Mapping[str, Path],
    folder: Path,
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
        configs = ["train", problem.small, problem.arms / arm]
        run_bundle(problem.bundle, "training", configs, steps_per_epoch=steps, **options, **places)
        return children_seconds() - before

    if steps is None:
        few = train(FEW, "calibration")
        step = (train(MANY, "calibration") - few) / (MANY - FEW)
        if step <= 0:
            raise DataError.of(
                "the time of a step", f"{step:.3g} s", "more than 0; other work disturbs it: give --steps"
            )
        steps = max(1, round((seconds - few) / step))
    used = train(steps, "full")
    shared = folder / "shared.json"
    shared.write_text(json.dumps(_shared(problem, arm)), encoding="utf-8")
    for name in problem.test_sets:
        places = {"dataset_dir": problem.places(data[name])[0], "output_dir": folder / "predictions" / name}
        weights = folder / "full" / "models" / "model_final.pt"
        configs = ["inference", shared]
        run_bundle(problem.bundle, "inferring", configs, checkpoint=weights, **problem.inference, **places)
    return steps, used


def _shared(problem: Problem, arm: str) -> dict[str, Any]:
    """The overrides of an arm that inference needs as well."""
    return {
        key: value
        for file in _overrides(problem, arm)
        for key, value in file.items()
        if key.startswith(problem.shared_keys)
    }


def _train_nnunet(
    problem: Problem, python: str | None, seed: int, seconds: float, data: Mapping[str, Path], folder: Path
) -> tuple[int, float]:
    """Train nnU-Net in its own environment, and predict all sets; returns steps and processor seconds."""
    if python is None:
        raise SystemExit("error: nnunet: found no Python of its environment, expected --nnunet path/to/bin/python")
    case, work = ARMS[problem.name], folder / "nnunet"
    shutil.rmtree(work, ignore_errors=True)
    write_dataset(case, find_cases(data["train"]), work / "raw" / DATASET)
    for name in problem.test_sets:
        write_images(find_cases(data[name] / HELD_OUT), work / "test" / name)
    tests = {str(folder / "predictions" / name): str(work / "test" / name) for name in problem.test_sets}
    job = {"folder": str(work), "seconds": seconds, "seed": seed, "tests": tests, "output": str(folder / "nnunet.json")}
    (work / "job.json").write_text(json.dumps(job | case.plan()), encoding="utf-8")
    run_python(ROOT / "scripts" / "nnunet" / "reference.py", "train_for", work / "job.json", python=python)
    done = json.loads((folder / "nnunet.json").read_text(encoding="utf-8"))
    return done["steps"], done["seconds"]


def _scores(problem: Problem, data: Mapping[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Mean scores of each set, by column."""
    scores = {}
    for name in problem.test_sets:
        file = folder / f"scores of {name}.json"
        labels = problem.places(data[name])[1]
        run_python("scripts/score.py", problem.score, folder / "predictions" / name, labels, json=file)
        mean = json.loads(file.read_text(encoding="utf-8"))["mean"]
        scores[name] = {column: value(mean) for column, value in problem.columns.items()}
    return scores


def draw_first(problem: Problem, data: Mapping[str, Path], folder: Path) -> None:
    """Draw a slice of each set's first volume, its label, its prediction and the errors."""
    for name in problem.test_sets:
        prediction = min(path for path in (folder / "predictions" / name).iterdir() if path.suffix in (".tif", ".gz"))
        images, labels = problem.places(data[name])
        places = (images / prediction.name, labels / prediction.name.replace("volume-", "segmentation-"), prediction)
        image, label, mask = map(problem.read, places)
        image = image.clip(*problem.window)
        figure = draw_panel(image, label, mask, title=f"{name}, {prediction.stem}", ignored=problem.ignored)
        write_whole(folder / f"{name}.png", lambda path, figure=figure: figure.savefig(path, dpi=100))


def table(problem: Problem, out: Path) -> str:
    """Return mean and standard deviation over the seeds of every arm in a folder, in Markdown."""
    lines = []
    for folder in sorted({path.parent.parent for path in out.glob("*/seed_*/result.json")}):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed_*/result.json"))]
        for name in problem.test_sets:
            rows = [result["scores"][name] for result in results]
            cells = [folder.name, name, str(len(rows))]
            cells += [f"{statistics.mean(result[key] for result in results):.0f}" for key in ("steps", "seconds")]
            cells += [_spread([row[column] for row in rows]) for column in problem.columns]
            lines.append(cells)
    return markdown(["arm", "set", "seeds", "steps", "seconds", *problem.columns], lines)


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found['mean']:.3f}" + (f" ± {found['sd']:.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    command_line(experiment, "experiments_recipe.py")
