"""Wheels of the packages that a bundle needs and Kaggle's image lacks."""

import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IN_IMAGE = {
    *("torch", "numpy", "scipy", "scikit-image", "matplotlib", "pillow", "pandas", "tensorboard", "tqdm"),
    *("packaging", "typing-extensions", "importlib-resources"),
}
"""Packages used from Kaggle's image (github.com/Kaggle/docker-python, based on Colab's image)."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def requirements(bundle: dict[str, Any], python: str) -> list[str]:
    """Return pins of the packages that the image lacks, with dependencies: ``["edt==3.0.0", ...]``.

    Versions of direct requirements are the bundle's, those of their dependencies are those installed here.

    Args:
        bundle: its metadata.
        python: Kaggle's Python version, such as ``"3.12"``.
    """
    named = {"monai": bundle["monai_version"], **bundle["required_packages_version"]}
    named.pop("itk", None)  # large, only needed to write NRRD and MetaImage
    pins = {canonicalize_name(name): version for name, version in named.items()}
    waiting = [name for name in pins if name not in IN_IMAGE]
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = pins.get(name) or metadata.version(name)
            waiting += [other for other in _needs(name, python) if other not in IN_IMAGE]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def download(pins: Iterable[str], folder: Path, python: str) -> None:
    """Download the wheels for Linux on x86-64 with pip.

    Raises:
        subprocess.CalledProcessError: pip does not find one of them.
    """
    choice = ["--only-binary=:all:", "--no-deps", "--implementation=cp", f"--python-version={python}"]
    choice += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([sys.executable, "-m", "pip", "download", *choice, "--dest", str(folder), *pins], check=True)


def _needs(name: str, python: str) -> list[str]:
    """Names of a package's requirements."""
    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", "sys_platform": "linux"}
    wanted = [Requirement(line) for line in metadata.requires(name) or []]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate(environment=there)]
    return [canonicalize_name(item.name) for item in wanted]
