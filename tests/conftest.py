"""Fixtures that several test modules use."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# gcsfs asks a bucket for its kind over gRPC, for which an emulator has no answer, and waits a minute for each.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny tensors are slower on several threads, and tests may run side by side."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory) -> Iterator[Callable[[str], Path]]:
    """``tmp_path_factory.mktemp`` for what a module's tests share: removed after them, since trainings fill disks."""
    made = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def real_liver() -> Path:
    """The folder of real CT volumes beside the repository; the test is skipped where it is absent."""
    return _shared_data("liver")


@pytest.fixture(scope="session")
def real_membranes() -> Path:
    """The folder of real image stacks in Kaggle layout beside the repository."""
    return _shared_data("membranes")


def _shared_data(name: str) -> Path:
    folder = REPOSITORY.parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real data not present: ../shared/data/{name}")
    return folder
