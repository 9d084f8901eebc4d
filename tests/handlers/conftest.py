"""A trainer small enough to check by hand."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from monai.engines import SupervisedTrainer


@pytest.fixture
def make_trainer() -> Callable[..., SupervisedTrainer]:
    """``make_trainer(network, batches, handlers, ...)``: one epoch over a list of batches."""

    def make(network, batches, handlers=(), *, optimizer, loss=None, epochs=1, epoch_length=None, **options):
        return SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=batches,
            epoch_length=epoch_length or len(batches),
            network=network,
            optimizer=optimizer,
            loss_function=loss or torch.nn.MSELoss(),
            decollate=False,
            train_handlers=list(handlers),
            **options,
        )

    return make


@pytest.fixture
def batches() -> list[dict]:
    """Seven batches of two items with four values each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(2, 4, generator=generator),
            "label": torch.randn(2, 1, generator=generator),
            "id": [f"case{2 * n}", f"case{2 * n + 1}"],
        }
        for n in range(7)
    ]


SCRIPT = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    """The module ``tiny_run.py`` beside this one."""
    sys.path.insert(0, str(SCRIPT.parent))  # worker processes import it too
    return importlib.import_module(SCRIPT.stem)


class Processes:
    """Runs of ``tiny_run.py`` as processes that can be killed, one at a time."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=SCRIPT.parents[2],
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "GLOO_SOCKET_IFNAME": "lo"},
        )
        self.running = 0

    def start(self, **options) -> None:
        print(json.dumps(options, default=str), file=self.server.stdin, flush=True)
        self.running = int(self._answer("process")[0])

    def signal(self, number: int) -> None:
        os.kill(self.running, number)

    def wait(self) -> tuple[int, str]:
        """The exit code (negative for a signal) and what was printed."""
        status, output = self._answer("status")
        return int(status), output

    def _answer(self, kind: str) -> tuple[str, str]:
        output = ""
        for line in self.server.stdout:
            if line.startswith(f"{kind} "):
                return line.split()[1], output
            output += line
        raise RuntimeError(f"the server of runs ended: {output}")


@pytest.fixture(scope="session")
def processes():
    """Start processes in little time."""
    server = Processes()
    yield server
    server.server.send_signal(signal.SIGKILL)
