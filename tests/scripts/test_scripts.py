"""Scripts run without an installation, from any folder."""

import ast
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scripts"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_first_imports_what_makes_the_others_importable(path):
    statements = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    packages = [node.module.partition(".")[0] for node in statements]
    assert next(package for package in packages if package in ("custom", "scripts")) == "scripts"


def test_a_script_runs_where_the_project_is_not_installed(tmp_path):
    # without site there are no .pth files, by which an editable installation is found
    command = [sys.executable, "-S", str(FOLDER / "score.py")]
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    expected = "error: found no command, expected one of vesuvius, liver; --help shows how\n"
    assert (done.returncode, done.stderr) == (1, expected)
