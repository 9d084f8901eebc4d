"""Make Kaggle notebooks that run without internet, and their dataset."""

import json
import re
import shutil
import tempfile
from pathlib import Path

from scripts.command_line import command_line

from custom.errors import DataError
from custom.system.files import write_json

BUNDLES = {"vesuvius": "vesuvius_surface_3d", "liver": "liver_tumor_2d"}
COMPETITIONS = {"vesuvius": "vesuvius-challenge-surface-detection"}
NOBODY = "INSERT-YOUR-USERNAME"


def make_kaggle_notebook(
    name: str,
    output: str = "dist/kaggle",
    weights: str | None = None,
    variant: str | None = None,
    wheels: bool = False,
    python: str = "3.12",
    user: str = NOBODY,
    competition: str | None = None,
) -> Path:
    """Write <output>/<name>-dataset/, <name>-inference/ and <name>-training/, ready for Kaggle's command line.

    The dataset contains the bundle's zip and, with --wheels True, the packages that Kaggle's image lacks. The notebooks
    contain no output. See docs/kaggle.md for how to use them.

    Example: python scripts/make_kaggle_notebook.py vesuvius --weights models/model.pt --wheels True --user jane

    Args:
        name: vesuvius or liver.
        output: folder to write to; the results of an earlier call are replaced.
        weights: as for scripts/export_bundle.py; without any, inference uses those of the training notebook.
        variant: the override file that the weights were trained with, as for scripts/export_bundle.py.
        wheels: whether to download the wheels; otherwise wheels/ contains only their list.
        python: Kaggle's Python version.
        user: your name on Kaggle.
        competition: the last part of its address; known for vesuvius.

    Raises:
        DataError: an unknown name, unsuitable weights, or a folder with other contents.
    """
    if name not in BUNDLES:
        raise DataError.of(f"notebook {name}", "no such name", " or ".join(BUNDLES))
    if not re.fullmatch(r"3\.\d\d", str(python)):
        raise DataError.of(f"python {python}", "no version of Python", "one such as 3.12; 3.10 is written \"'3.10'\"")
    from scripts.export_bundle import export_bundle  # slow to import, not needed for --help
    from scripts.kaggle.wheels import download, requirements

    folder, bundle = Path(str(output)), BUNDLES[name]
    for part in ("dataset", "inference", "training"):
        _check_ours(folder / f"{name}-{part}")
    with tempfile.TemporaryDirectory() as building:
        archive = export_bundle(bundle, building, weights=weights, variant=variant)
        metadata = json.loads((archive.parent / bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        dataset = _emptied(folder / f"{name}-dataset")
        shutil.copyfile(archive, dataset / archive.name)
    pins = requirements(metadata, str(python))
    _write_dataset(dataset, archive.name, pins, f"{user}/{_slug(bundle)}", metadata["name"])
    if wheels:
        download(pins, dataset / "wheels", str(python))
    _write_notebooks(name, folder, str(user), competition or COMPETITIONS.get(name))
    print(f"Written to {folder}:", *sorted(path.name for path in folder.iterdir()))
    return folder


def _write_dataset(folder: Path, archive: str, pins: list[str], slug: str, title: str) -> None:
    from custom.system.identity import sha256

    (folder / "wheels").mkdir()
    (folder / "wheels" / "requirements.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    (folder / "SHA256SUMS").write_text(f"{sha256(folder / archive)}  {archive}\n", encoding="utf-8")
    write_json(
        folder / "dataset-metadata.json",
        {
            "title": f"{title} bundle and wheels",
            "id": slug,
            "licenses": [{"name": "other"}],
            "description": "A MONAI bundle and Python wheels, for notebooks without internet. Code: Apache-2.0. "
            "Weights: also the terms of their training data (docs/data_license.txt in the bundle). Wheels: their own.",
        },
    )


def _write_notebooks(name: str, folder: Path, user: str, competition: str | None) -> None:
    from scripts.kaggle.cells import notebook

    slugs = {kind: _slug(f"{BUNDLES[name]} {kind}") for kind in ("inference", "training")}
    for kind, slug in slugs.items():
        place = _emptied(folder / f"{name}-{kind}")
        write_json(place / f"{name}-{kind}.ipynb", notebook(kind, name))
        write_json(
            place / "kernel-metadata.json",
            {
                "id": f"{user}/{slug}",
                "title": slug,
                "code_file": f"{name}-{kind}.ipynb",
                "language": "python",
                "kernel_type": "notebook",
                "is_private": True,
                "enable_gpu": True,
                "enable_internet": False,
                "dataset_sources": [f"{user}/{_slug(BUNDLES[name])}"],
                "competition_sources": [competition] if competition else [],
                "kernel_sources": [],
            },
        )


def _slug(name: str) -> str:
    return name.replace("_", "-").replace(" ", "-")


def _check_ours(folder: Path) -> None:
    if folder.exists() and not list(folder.glob("*-metadata.json")):
        raise DataError.of(folder, "something else", "what this script made, or nothing")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    command_line(make_kaggle_notebook, "make_kaggle_notebook.py")
