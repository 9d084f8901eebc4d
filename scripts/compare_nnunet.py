"""Compare imported models with nnU-Net itself, which runs in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.command_line import command_line

from custom.errors import DataError

REFERENCE = Path(__file__).resolve().parent / "nnunet" / "reference.py"
ROOT = REFERENCE.parents[2]


def compare_nnunet(
    python: str,
    work: str,
    cases: str | None = None,
    size: int = 48,
    steps: int = 30,
    fixture: str | None = None,
) -> None:
    """Train tiny models with nnU-Net on phantoms, import them, predict with both, and print how they differ.

    nnU-Net predicts twice: with its sums of logits in float32, and in float16 as it has them. Processor seconds and
    extra memory are those of a prediction with one thread, without reading the file (ours / nnU-Net in float16).

    Prepare the environment with: python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1

    Example: python scripts/compare_nnunet.py --python nnunet/bin/python --work compared

    Args:
        python: the interpreter of the environment.
        work: folder for data and models; models that are there are not trained again.
        cases: names of scripts/nnunet/cases.py, separated by commas; by default all.
        size: of the phantoms in voxels.
        steps: of training.
        fixture: folder to which models, images and nnU-Net's predictions are written for the tests.
    """
    from scripts.nnunet.cases import CASES

    names = list(CASES) if cases is None else cases if isinstance(cases, tuple) else str(cases).split(",")
    if unknown := set(names) - set(CASES):
        raise DataError.of("cases", ", ".join(sorted(unknown)), f"some of {', '.join(CASES)}")
    print(f"{'case':24} {'d float32':>10} {'d float16':>10} {'voxels':>9} {'other':>6} {'seconds':>15} {'MiB':>13}")
    for name in names:
        folder = Path(str(work)).resolve() / name
        images = _trained(Path(str(python)), name, folder, size=size, steps=steps)
        _predict(Path(str(python)), name, folder, images)
        for index in range(len(images)):
            print(_row(name, folder, index))
        if fixture is not None:
            _write_fixture(Path(str(fixture)) / name, folder, images[-1], len(images) - 1)


def _trained(python: Path, name: str, folder: Path, *, size: int, steps: int) -> list[str]:
    """Train a case's model unless it is there; returns the images to predict."""
    from scripts.nnunet.cases import CASES, write_phantoms

    case, listed = CASES[name], folder / "images.json"
    options = {"size": size, "steps": steps}
    if not listed.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        images = write_phantoms(case, folder, size=size)
        job = {"folder": str(folder), "steps": steps, "folds": case.folds}
        _run([str(python), str(REFERENCE), "train"], job | case.plan(), folder)
        listed.write_text(json.dumps({"images": images, **options}))
    made = json.loads(listed.read_text())
    images = made.pop("images")
    if made != options:
        raise DataError.of(listed, f"a model with other options ({made})", f"{options}, or another --work")
    return images


def _predict(python: Path, name: str, folder: Path, images: list[str]) -> None:
    from scripts.import_nnunet import import_nnunet
    from scripts.nnunet.cases import CASES

    import_nnunet(str(_model(folder)), CASES[name].bundle, str(folder / "imported"))
    for kind in ("float32", "float16", "own"):
        output = folder / kind
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        job: dict[str, Any] = {"images": images, "output": str(output)}
        if kind == "own":
            job |= {"bundle": CASES[name].bundle, "imported": str(folder / "imported")}
            _run([sys.executable, "-m", "scripts.nnunet.own"], job, output)
        else:
            job |= {"model": str(_model(folder)), "sums": kind}
            _run([str(python), str(REFERENCE), "predict"], job, output)


def _model(folder: Path) -> Path:
    return next((folder / "results").glob("*/*__*"))


def _run(command: list[str], job: dict[str, Any], folder: Path) -> None:
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(file)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DataError.of(command[-1], done.stderr.strip().splitlines()[-1], "a run without errors; see " + str(file))


def _row(name: str, folder: Path, index: int) -> str:
    """One image: largest differences of the probabilities, voxels with another label, seconds and memory."""
    import numpy as np

    found = {kind: np.load(folder / kind / f"{index}.npz") for kind in ("own", "float32", "float16")}
    costs = {kind: json.loads((folder / kind / "cost.json").read_text())[index] for kind in found}
    own, mask = found["own"]["probabilities"], found["own"]["mask"][0]
    differences = [float(abs(own - found[kind]["probabilities"][-len(own) :]).max()) for kind in ("float32", "float16")]
    other = int((mask != found["float32"]["mask"]).sum())
    seconds = "{:.1f} / {:.1f}".format(*(costs[kind]["seconds"] for kind in ("own", "float16")))
    memory = "{:.0f} / {:.0f}".format(*(costs[kind]["memory"] / 2**20 for kind in ("own", "float16")))
    first, second = differences
    return f"{name:24} {first:10.1e} {second:10.1e} {mask.size:9} {other:6} {seconds:>15} {memory:>13}"


def _write_fixture(target: Path, folder: Path, image: str, index: int) -> None:
    """Copy a model without the state of its optimizer, an image, and nnU-Net's prediction of it."""
    import numpy as np
    import torch

    from scripts.nnunet.model import read_checkpoint

    model = _model(folder)
    shutil.rmtree(target, ignore_errors=True)
    place = target / model.name
    place.mkdir(parents=True)
    for name in ("dataset.json", "plans.json"):
        content = json.loads((model / name).read_text())
        (place / name).write_text(json.dumps(content) + "\n")
    for file in sorted(model.glob("fold_*/checkpoint_final.pth")):
        content = read_checkpoint(file)
        kept = {key: content[key] for key in ("trainer_name", "inference_allowed_mirroring_axes", "_best_ema")}
        kept["network_weights"] = content["network_weights"]
        kept["init_args"] = {key: content["init_args"][key] for key in ("configuration", "fold")}
        (place / file.parent.name).mkdir()
        torch.save(kept, place / file.parent.name / file.name)
    shutil.copyfile(image, target / Path(image).name.replace("_0000", ""))
    found = np.load(folder / "float32" / f"{index}.npz")
    every_second = found["probabilities"][:, ::2, ::2, ::2].astype(np.float64)
    probabilities = np.round(every_second * 65535).astype(np.uint16)
    np.savez_compressed(target / "expected.npz", mask=found["mask"].astype(np.uint8), probabilities=probabilities)


if __name__ == "__main__":
    command_line(compare_nnunet, "compare_nnunet.py")
