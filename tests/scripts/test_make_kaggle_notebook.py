"""Both notebooks of both bundles, executed on phantoms in folders like Kaggle's, with the network blocked."""

import ast
import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image, ImageSequence

from scripts.kaggle.cells import NOTEBOOKS, read_cells
from scripts.kaggle.wheels import requirements
from scripts.make_kaggle_notebook import make_kaggle_notebook
from scripts.phantoms import write_abdomens, write_scrolls

from custom.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]

# Networks that see one voxel at a time, with weights set by hand: what they predict is known without them.
POINTWISE = {
    "vesuvius": ("torch.nn.Conv3d", [0.0, 40.0], [0.0, 0.0]),  # surface where 2 v / 255 - 1 > 0
    "liver": ("torch.nn.Conv2d", [40.0, 40.0], [-20.1, -24.1]),  # liver from 51 HU on, tumour from 81 HU on
}
TRAINING = {
    "vesuvius": {"patch_size": [16, 32, 32]},
    "liver": {"slice_size": [64, 64], "batch_size": 2},
}

BLOCKER = """
import os, socket, sys
notes = os.environ["NETWORK_NOTES"]
with open(os.path.join(notes, f"blocked-{os.getpid()}"), "w") as file:
    file.write(" ".join(sys.orig_argv))

def guarded(original, place):
    def guard(*arguments, **options):
        address = arguments[place]
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(host, (str, bytes)) and isinstance(address, tuple) or place == 0 and host is not None:
            host = host.decode() if isinstance(host, bytes) else str(host)
            if host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0", ""):
                with open(os.path.join(notes, "tried"), "a") as file:
                    file.write(f"{host} {sys.orig_argv}\\n")
                raise OSError(f"the network is blocked in this test: {host}")
        return original(*arguments, **options)
    return guard

for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, guarded(getattr(socket.socket, name), 1))
socket.getaddrinfo = guarded(socket.getaddrinfo, 0)
"""


class Kaggle:
    """Folders as in a session, and a way to run a notebook in them."""

    def __init__(self, folder):
        self.input, self.working, self.notes = (folder / name for name in ("input", "working", "notes"))
        for place in (self.input, self.working, self.notes, folder / "blocker"):
            place.mkdir(parents=True)
        (folder / "blocker" / "sitecustomize.py").write_text(BLOCKER)
        unset = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "KAGGLE_INPUT", "CUDA_VISIBLE_DEVICES")
        self.environment = {key: value for key, value in os.environ.items() if key not in unset} | {
            "PYTHONPATH": str(folder / "blocker"),
            "NETWORK_NOTES": str(self.notes),
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "KAGGLE_INPUT": str(self.input),
            "KAGGLE_WORKING": str(self.working),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "TMPDIR": str(folder),
        }

    def run(self, path, settings, during=None, after_setup=""):
        """Execute a notebook with some of its settings replaced, as papermill does; its printed text and pictures."""
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        tags = [cell.metadata.get("tags") for cell in notebook.cells]
        at = tags.index(["parameters"]) + 1
        lines = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
        notebook.cells.insert(at, nbformat.v4.new_code_cell(lines))
        if after_setup:
            at = next(i for i, cell in enumerate(notebook.cells) if "is_missing" in cell.source) + 1
            notebook.cells.insert(at, nbformat.v4.new_code_cell(after_setup))
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(self.working)}})
        if during:
            threading.Thread(target=during, args=(client, self), daemon=True).start()
        client.execute(env=self.environment)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        nbformat.write(notebook, self.working.parent / path.name)
        assert not (self.notes / "tried").exists(), (self.notes / "tried").read_text()
        return (
            "".join(output.text for output in outputs if output.output_type == "stream"),
            [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})],
        )

    def blocked(self):
        """The command lines of all Python processes that ran without network."""
        return [note.read_text() for note in self.notes.glob("blocked-*")]


@pytest.fixture(scope="module")
def made(make_folder):
    """Datasets and notebooks of both bundles, as the script writes them, with pointwise networks."""
    folder = make_folder("kaggle")
    for name, (target, weight, bias) in POINTWISE.items():
        network = {"_target_": target, "in_channels": 1, "out_channels": 2, "kernel_size": 1}
        (folder / f"{name}.json").write_text(json.dumps({"network_def": network}))
        shape = (2, 1) + (1,) * (3 if target.endswith("3d") else 2)
        weights = {"weight": torch.tensor(weight).reshape(shape), "bias": torch.tensor(bias)}
        torch.save(weights, folder / f"{name}.pt")
        make_kaggle_notebook(
            name, str(folder / "dist"), weights=str(folder / f"{name}.pt"), variant=str(folder / f"{name}.json")
        )
    return folder / "dist"


@pytest.fixture(scope="module")
def scrolls(make_folder):
    return write_scrolls(make_folder("scrolls"), n_train=3, n_test=2, size=40)


@pytest.fixture(scope="module")
def abdomens(make_folder):
    return write_abdomens(make_folder("abdomens"), n_train=3, n_test=1, size=48, slices=12)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_the_sources_import_what_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        for module in [node.module] if isinstance(node, ast.ImportFrom) else []:
            loaded = importlib.import_module(module)
            assert all(hasattr(loaded, alias.name) for alias in node.names), module


def add_wheel(wheels):
    """A wheel of one module beside the list, as pip download leaves them."""
    with zipfile.ZipFile(wheels / "tiny_module-1.0-py3-none-any.whl", "w") as file:
        info = "tiny_module-1.0.dist-info/"
        file.writestr("tiny_module.py", "WORD = 'from a wheel'\n")
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny-module\nVersion: 1.0\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(info + "RECORD", "")
    with (wheels / "requirements.txt").open("a") as file:
        file.write("tiny-module==1.0\n")


def test_the_blocker_blocks(tmp_path):
    kaggle = Kaggle(tmp_path)
    for code in ("socket.create_connection(('192.0.2.1', 80), 5)", "socket.getaddrinfo('example.org', 80)"):
        done = subprocess.run(
            [sys.executable, "-c", f"import socket; {code}"], env=kaggle.environment, capture_output=True, text=True
        )
        assert done.returncode and "the network is blocked in this test" in done.stderr
    assert len((kaggle.notes / "tried").read_text().splitlines()) == 2
    local = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    subprocess.run([sys.executable, "-c", local], env=kaggle.environment, check=True)


def pages(path):
    with Image.open(path) as file:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(file)])


@pytest.mark.slow
def test_surfaces_are_predicted_and_submitted(made, scrolls, tmp_path):
    kaggle = Kaggle(tmp_path)
    shutil.copytree(made / "vesuvius-dataset", kaggle.input / "my-bundle")
    add_wheel(kaggle.input / "my-bundle" / "wheels")
    data = kaggle.input / "competitions" / "vesuvius-challenge-surface-detection"
    shutil.copytree(scrolls / "test_images", data / "test_images")
    options = {"tta": ["depth", "vertical", "horizontal"], "patch_size": [16, 32, 32], "inferer#precision": "float32"}
    text, pictures = kaggle.run(
        made / "vesuvius-inference" / "vesuvius-inference.ipynb",
        {"HOURS": 0.5, "RESERVE_MINUTES": 0, "OPTIONS": options},
        after_setup="import tiny_module; print(tiny_module.WORD, tiny_module.__file__.startswith(str(TEMPORARY)))",
    )
    with zipfile.ZipFile(kaggle.working / "submission.zip") as archive:
        assert archive.namelist() == ["1500.tif", "1501.tif"]
        archive.extractall(tmp_path / "unpacked")
    for image in (scrolls / "test_images").iterdir():
        with Image.open(tmp_path / "unpacked" / image.name) as file:
            assert file.tag_v2[259] == 5 and file.mode == "L"  # LZW, uint8
        stack = pages(tmp_path / "unpacked" / image.name)
        assert stack.dtype == np.uint8 and stack.shape == (40, 40, 40)
        assert np.array_equal(stack, pages(image) > 127)
    assert "installed from wheels: tiny-module==1.0" in text and "from a wheel True" in text
    assert "2/2" in text and text.count("8 of 8 views") == 2 and "0 of 2 volumes have an empty entry" in text
    assert re.search(r"wall time: \d+ s, of 1800 s allowed", text)
    assert len(pictures) == 1
    processes = kaggle.blocked()
    assert all(
        any(word in line for line in processes) for word in ("ipykernel", "scripts.competition.timed_worker", "-m pip")
    )
    assert [path.name for path in kaggle.working.iterdir()] == ["submission.zip"]
    assert not list(tmp_path.glob("bundle_*"))


def pixels(code, shape):
    """Of a mask, from the competition's description of the code."""
    flat = np.zeros(shape[0] * shape[1], bool)
    numbers = np.array(code.split(), int)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape[::-1]).T


@pytest.mark.slow
def test_livers_are_predicted_and_submitted(made, abdomens, tmp_path):
    """Kaggle has unpacked the bundle's zip, and one of the images has no usable voxels."""
    kaggle = Kaggle(tmp_path)
    dataset = kaggle.input / "my-bundle"
    shutil.copytree(made / "liver-dataset", dataset)
    archive = next(dataset.glob("*.zip"))
    shutil.unpack_archive(archive, dataset / archive.stem)
    archive.unlink()
    test = kaggle.input / "warm-up" / "test" / "volume"
    test.mkdir(parents=True)
    image = nibabel.load(abdomens / "test" / "volume-500.nii.gz")
    nibabel.save(image, test / "volume-500.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full((9, 7, 3), np.nan, np.float32), np.eye(4)), test / "volume-501.nii.gz")
    ids = [f"volume-500_{k}" for k in range(image.shape[2])] + [f"volume-501_{k}" for k in range(3)]
    (kaggle.input / "warm-up" / "sample_submission.csv").write_text("id,rle\n" + "".join(f"{i},\n" for i in ids))
    text, pictures = kaggle.run(
        made / "liver-inference" / "liver-inference.ipynb",
        {"HOURS": 0.5, "RESERVE_MINUTES": 0, "OPTIONS": {"clean_liver": False, "inferer#precision": "float32"}},
    )
    with (kaggle.working / "submission.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["id", "rle"] and [row[0] for row in rows[1:]] == ids
    codes = dict(rows[1:])
    values = image.get_fdata()
    for k in range(image.shape[2]):
        assert np.array_equal(pixels(codes[f"volume-500_{k}"], image.shape[:2]), values[:, :, k] > 50)
    assert {codes[f"volume-501_{k}"] for k in range(3)} == {"1 0"}
    assert "volume-501  FAILED: " in text and "1 of 2 volumes have an empty entry: volume-501" in text
    assert f"{len(ids)} ids, the same as in sample_submission.csv" in text
    assert "installed from wheels: nothing" in text and "volumes predicted: 1 of 2" in text
    assert len(pictures) == 1


def train(kaggle, made, name, during=None, configs=("train",), **options):
    options = {"epochs": 2, "n_folds": 3, "num_workers": 0, **TRAINING[name], **options}
    settings = {"HOURS": 0.5, "CONFIGS": list(configs), "OPTIONS": options}
    return kaggle.run(made / f"{name}-training" / f"{name}-training.ipynb", settings, during)


@pytest.mark.slow
def test_surfaces_are_trained(made, scrolls, tmp_path):
    kaggle = Kaggle(tmp_path)
    shutil.copytree(made / "vesuvius-dataset", kaggle.input / "my-bundle")
    shutil.copytree(scrolls, kaggle.input / "vesuvius-challenge-surface-detection")
    text, pictures = train(kaggle, made, "vesuvius", configs=("train", "loss_dice_ce"), steps_per_epoch=2, batch_size=1)
    assert "the training starts anew" in text and "steps done: 4" in text
    budget = float(re.search(r"--budget_hours=([\d.]+)", text)[1])
    assert 0.4 < budget < 0.5
    weights = torch.load(kaggle.working / "models" / "model.pt", weights_only=True)
    assert set(weights) == {"weight", "bias"}
    assert len(pictures) == 2
    assert re.search(r"wall time: \d+ s, of 1800 s allowed", text)
    assert any("monai.bundle run training" in line for line in kaggle.blocked())


def interrupt_after_a_checkpoint(client, kaggle):
    """What the stop button does, once there is something to go on from."""
    folder = kaggle.working / "models" / "checkpoints"
    while not list(folder.glob("step_*.pt")):
        time.sleep(0.05)
    os.killpg(os.getpgid(client.km.provisioner.pid), signal.SIGINT)


@pytest.mark.slow
def test_livers_are_trained_over_two_sessions(made, abdomens, tmp_path):
    options, often = {"steps_per_epoch": 100}, {"train#handlers#3#checkpoint_minutes": 0}
    kaggle = Kaggle(tmp_path)
    shutil.copytree(made / "liver-dataset", kaggle.input / "my-bundle")
    shutil.copytree(abdomens, kaggle.input / "lits", ignore=shutil.ignore_patterns("held_out.json"))
    text, _ = train(kaggle, made, "liver", interrupt_after_a_checkpoint, **often, **options)
    done = int(re.search(r"steps done: (\d+)", text)[1])
    assert 0 < done < 200 and f"after {done} of 200 steps" in text

    kaggle.working.rename(kaggle.input / "last-version")
    kaggle.working.mkdir()
    text, pictures = train(kaggle, made, "liver", **options)
    assert f"going on after step {done}, from {kaggle.input / 'last-version'}" in text
    assert f"training continues after step {done}" in text and "steps done: 200" in text
    with (kaggle.working / "training" / "metrics.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2"]
    assert (kaggle.working / "models" / "model.pt").is_file() and len(pictures) == 2


def test_metadata_is_what_kaggles_command_line_reads(made):
    """Fields and limits: docs/datasets_metadata.md and docs/kernels_metadata.md of github.com/Kaggle/kaggle-cli."""
    dataset = json.loads((made / "vesuvius-dataset" / "dataset-metadata.json").read_text())
    assert 6 <= len(dataset["title"]) <= 50 and dataset["licenses"] == [{"name": "other"}]
    owner, slug = dataset["id"].split("/")
    assert owner == "INSERT-YOUR-USERNAME" and re.fullmatch(r"[a-z0-9-]{3,50}", slug)
    kernel = json.loads((made / "vesuvius-inference" / "kernel-metadata.json").read_text())
    assert (made / "vesuvius-inference" / kernel["code_file"]).is_file()
    assert kernel["enable_internet"] is False and kernel["enable_gpu"] is True
    assert kernel["dataset_sources"] == [dataset["id"]]
    assert kernel["competition_sources"] == ["vesuvius-challenge-surface-detection"]
    assert kernel["id"].split("/")[1] == kernel["title"].lower().replace(" ", "-")


@pytest.mark.slow
def test_the_same_arguments_give_the_same_files(made, tmp_path):
    options = {"weights": str(made.parent / "liver.pt"), "variant": str(made.parent / "liver.json")}
    for part in ("dataset", "inference", "training"):
        shutil.copytree(made / f"liver-{part}", tmp_path / f"liver-{part}")
        (tmp_path / f"liver-{part}" / "of-an-earlier-version.whl").write_text("")
    make_kaggle_notebook("liver", str(tmp_path), **options)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 8
    assert [path for path in files if (tmp_path / path).read_bytes() != (made / path).read_bytes()] == []


def test_notebooks_are_short_and_have_headings(made):
    for path in made.glob("*/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert len(code) <= 8 and sum(len(cell.source.splitlines()) for cell in code) < 170
        headings = [line for cell in cells for line in cell.source.splitlines() if re.match("#+ [A-Z]", line)]
        assert cells[0].source.startswith("# ") and len(headings) >= 6
        assert not any(cell.get("outputs") for cell in cells)


def test_wheels_are_those_that_the_image_lacks():
    metadata = {
        name: json.loads((REPOSITORY / "bundles" / name / "configs" / "metadata.json").read_text())
        for name in ("vesuvius_surface_3d", "liver_tumor_2d")
    }
    surface, liver = (
        {line.split("==")[0]: line.split("==")[1] for line in requirements(content, "3.12")}
        for content in metadata.values()
    )
    small = {"monai", "nibabel", "pytorch-ignite", "fire", "termcolor", "connected-components-3d", "pydicom"}
    small |= {"tifffile", "imagecodecs"}
    assert set(liver) == {*small, "edt"}  # of its post-processing
    assert set(surface) == {*small, "einops"}  # of its network
    assert liver["monai"] == metadata["liver_tumor_2d"]["monai_version"]


def test_what_is_in_the_way_is_kept(tmp_path):
    (tmp_path / "liver-dataset").mkdir()
    (tmp_path / "liver-dataset" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="found something else"):
        make_kaggle_notebook("liver", str(tmp_path))
    assert (tmp_path / "liver-dataset" / "mine.txt").exists()


@pytest.mark.parametrize("arguments", [{"name": "brain"}, {"name": "liver", "python": 3.1}])
def test_bad_arguments_are_refused(arguments, tmp_path):
    with pytest.raises(DataError, match="expected"):
        make_kaggle_notebook(**arguments, output=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_cells_of_another_bundle_are_left_out():
    for name in ("inference", "training"):
        for variant, other in (("vesuvius", "liver_tumor_2d"), ("liver", "vesuvius_surface_3d")):
            text = "\n".join(cell["source"] for cell in read_cells(name, variant))
            assert other not in text and "# %%" not in text
