"""Datasets of tiny phantoms and the options that make a bundle small enough for a test."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

SMALL: dict[str, dict[str, Any]] = {
    "vesuvius_surface_3d": {
        "epochs": 2,
        "steps_per_epoch": 2,
        "patch_size": [16, 32, 32],
        "network_def#init_filters": 8,
    },
    "liver_tumor_2d": {
        "epochs": 2,
        "steps_per_epoch": 2,
        "batch_size": 2,
        "slice_size": [48, 48],
        "network_def#backbone": "resnet18",
        "network_def#decoder_channels": [16, 16, 8, 8, 8],
    },
}


@dataclass(frozen=True)
class Bundle:
    """A bundle's name, a dataset of phantoms in its layout, and how to run it small."""

    name: str
    data: Path
    images: Path

    @property
    def root(self) -> Path:
        return REPOSITORY / "bundles" / self.name

    @property
    def options(self) -> dict[str, Any]:
        return {"dataset_dir": str(self.data), "n_folds": 3, "num_workers": 0, **SMALL[self.name]}

    @property
    def inference_options(self) -> dict[str, Any]:
        """Those of the options that ``inference.json`` has a use for."""
        known = json.loads((self.root / "configs" / "inference.json").read_text())
        return {key: value for key, value in self.options.items() if key.split("#")[0] in known}

    def configs(self, *names: str) -> list[str]:
        return [str(self.root / "configs" / f"{name}.json") for name in names]

    def run(
        self,
        run_id: str,
        configs: list[str],
        *,
        cwd: Path | None = None,
        runner: Sequence[str] = ("-m",),
        **options: Any,
    ) -> subprocess.CompletedProcess:
        """``python -m monai.bundle run``, from the bundle's own folder unless told otherwise."""
        arguments = [f"--{key}={value}" for key, value in options.items()]
        return subprocess.run(
            [sys.executable, *runner, "monai.bundle", "run", run_id, f"--config_file={configs}", *arguments],
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            timeout=600,
        )


def make_phantoms(kind: str, folder: Path, *options: str) -> Path:
    subprocess.run(
        [sys.executable, "scripts/make_phantoms.py", kind, f"--output={folder}", *options], cwd=REPOSITORY, check=True
    )
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> dict[str, Bundle]:
    """Both bundles with three training volumes and one held out."""
    folder = tmp_path_factory.mktemp("phantoms")
    scroll = make_phantoms("scroll", folder / "scroll", "--n_train=3", "--n_test=1", "--size=40")
    abdomen = make_phantoms("abdomen", folder / "abdomen", "--n_train=3", "--n_test=1", "--size=48", "--slices=12")
    return {
        "vesuvius_surface_3d": Bundle("vesuvius_surface_3d", scroll, scroll / "test_images"),
        "liver_tumor_2d": Bundle("liver_tumor_2d", abdomen, abdomen / "test"),
    }


@pytest.fixture(params=sorted(SMALL))
def bundle(request, phantoms) -> Bundle:
    return phantoms[request.param]
