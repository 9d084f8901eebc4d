"""One version and one set of pins, whatever names them."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from custom.ops import betti

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
METADATA = {path.parents[1].name: json.loads(path.read_text()) for path in ROOT.glob("bundles/*/configs/metadata.json")}


def pins(lines):
    return dict(line.partition(";")[0].strip().split("==") for line in lines if "==" in line)


def test_the_changelogs_newest_release_is_the_projects_version():
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == PROJECT["version"]
    assert f"\nversion: {released[0]}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", METADATA)
def test_a_bundle_has_the_projects_version_and_pins(name):
    metadata, known = METADATA[name], pins((ROOT / "requirements.txt").read_text().splitlines())
    assert metadata["version"] == PROJECT["version"]
    assert {**known, "monai": metadata["monai_version"], "torch": metadata["pytorch_version"]} == known
    known |= pins(pin for extra in PROJECT["optional-dependencies"].values() for pin in extra)
    named = metadata["required_packages_version"] | metadata["extra_packages_version"]
    assert named == {package: known.get(package) for package in named}


def test_what_the_topology_asks_for_is_what_its_extra_installs():
    (pin,) = PROJECT["optional-dependencies"]["topology"]
    assert betti.INSTALL.split()[-1] == pin.partition(";")[0]
