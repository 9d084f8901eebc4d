"""Predicts many volumes within a time limit, with one process per GPU."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cases import Case, find_images
from ..data.volumes import read_shape, read_volume
from ..errors import DataError
from ..system.memory import free_bytes
from . import timed_worker

BYTES_PER_VOXEL = 64
"""Main memory of a process per voxel of its volume: image, mean and view, masks.

Measured on a CPU: 43 for a surface of 256^3 with all of the post-processing, 49 for a CT of 200 slices of 256 x 256.
"""
PROCESS_BYTES = 3e9
"""Main memory of a process without volume: torch, CUDA and the network."""
GRACE = 60.0
"""Seconds that a process has for writing its last case after the deadline, before it is stopped."""

PREDICTED, NO_TIME, FAILED = "predicted", "no time", "failed"


@dataclass(frozen=True)
class Outcome:
    """Result of a case: ``status`` is :data:`PREDICTED`, :data:`NO_TIME` or :data:`FAILED`."""

    id: str
    image: str
    status: str
    views: int = 0
    seconds: float = 0.0
    share: float = 0.0
    error: str = ""


def predict_in_time(
    *,
    bundle_root: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    seconds: float,
    configs: Sequence[str] = ("inference",),
    options: dict[str, Any] | None = None,
    devices: Sequence[str] | None = None,
    log: Callable[[str], None] = print,
) -> list[Outcome]:
    """Predict all images of a folder, or as many as the time allows, smallest first.

    When a case starts, it gets an equal share of the remaining time. The volume is predicted without augmentation
    first, then with further views of the configured test-time augmentation as long as they fit into the share. At the
    deadline, running predictions are stopped, and use the views that are complete. A case that fails, or crashes its
    process, does not affect others. Existing predictions with all views are kept if image, weights and settings are the
    same; others are deleted at the start.

    Args:
        output_dir: folder of the predictions; logs are in ``process_<n>.log`` in its parent folder.
        seconds: time until the last prediction must be written.
        configs: names in ``configs`` without suffix; later ones override earlier ones.
        devices: GPU numbers or ``"cpu"``, one process each. By default every usable GPU for which main memory suffices,
            or else one process on the CPU.

    Returns:
        an outcome for each case, in the order of :func:`custom.data.find_images`.

    Raises:
        DataError: no images, no weights, or weights of another network.
        RuntimeError: the processes do not start, or no case could be predicted for another reason than time.
    """
    deadline = time.monotonic() + seconds
    cases = find_images(dataset_dir, output_dir=output_dir)
    sizes = {case["id"]: _voxels(case["image"]) for case in cases}
    output_dir = Path(output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    root = Path(bundle_root).absolute()
    settings = {
        "bundle_root": str(root),
        "configs": [str(root / "configs" / f"{name}.json") for name in configs],
        "options": {**(options or {}), "output_dir": str(output_dir)},
    }
    wanted = list(devices) if devices is not None else _fitting(gpus() or ["cpu"], max(sizes.values()), log)
    processes = [
        _Process(root, settings, device, output_dir.parent / f"process_{number}.log")
        for number, device in enumerate(wanted)
    ]
    queue = _Queue(sorted(cases, key=lambda case: sizes[case["id"]]), deadline, log)
    try:
        useful = _ready(processes, chosen=devices is not None, log=log)
        queue.leave_out(_keep_current(useful[0], cases, output_dir, log), useful[0].about["views"])
        queue.work_off(useful)
    finally:
        for process in processes:
            process.stop()
    outcomes = [queue.outcomes[case["id"]] for case in cases]
    if all(outcome.status == FAILED for outcome in outcomes):
        raise RuntimeError(f"no case could be predicted: {outcomes[0].id}: {outcomes[0].error}")
    return outcomes


def gpus() -> list[str]:
    """Return the numbers of this machine's GPUs, without initialising CUDA in this process."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


class _Process:
    """A process of :mod:`custom.competition.timed_worker` for one device."""

    def __init__(self, root: Path, settings: dict[str, Any], device: str, log: Path) -> None:
        self.root, self.settings, self.visible, self.log = root, settings, device, log
        self.about: dict[str, Any] = {}
        log.unlink(missing_ok=True)
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if self.visible == "cpu" else self.visible}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", timed_worker.__name__],
                cwd=self.root,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self._write(self.settings)

    def why_unusable(self) -> DataError | RuntimeError | None:
        """Wait until the process has loaded the bundle, and return None, or why it cannot be used."""
        answer = self._answer()
        if answer is None:
            tail = self.log.read_text(errors="replace").splitlines()[-5:]
            return RuntimeError(f"the process for {self.visible} ended with {self.process.wait()}: " + " | ".join(tail))
        if "error" in answer:
            return DataError(answer["error"])
        self.about = answer
        return None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer; ``error`` if the process ended."""
        self._write(request)
        answer = self._answer()
        return answer if answer is not None else {"error": f"its process ended with {self.process.wait()}"}

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _write(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the process ended, which reading its answer will report
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def _answer(self) -> dict[str, Any] | None:
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None


class _Queue:
    def __init__(self, cases: Iterable[Case], deadline: float, log: Callable[[str], None]) -> None:
        self.waiting = deque(cases)
        self.total = len(self.waiting)
        self.deadline, self.log = deadline, log
        self.outcomes: dict[str, Outcome] = {}
        self.serving = 0
        """Number of threads that take cases, one per process."""
        self.lock = threading.Lock()

    def leave_out(self, ids: Sequence[str], views: int) -> None:
        for case in [case for case in self.waiting if case["id"] in ids]:
            self.waiting.remove(case)
            self.outcomes[case["id"]] = Outcome(case["id"], case["image"], PREDICTED, views)

    def work_off(self, processes: Sequence[_Process]) -> None:
        self.serving = len(processes)
        with ThreadPoolExecutor(len(processes)) as pool:
            try:
                threads = [pool.submit(self.serve, process) for process in processes]
                wait(threads, max(0.0, self.deadline + GRACE - time.monotonic()))
            except BaseException:
                with self.lock:
                    self.waiting.clear()  # otherwise the threads would restart the processes
                raise
            finally:
                for process in processes:
                    process.stop()
        for thread in threads:
            thread.result()
        for case in self.waiting:
            self._record(case, {"error": "no process is left for it"}, 0.0, 0.0, processes[0])

    def serve(self, process: _Process) -> None:
        """Let a process predict until no case is left, or until it is broken; others may continue then."""
        while (job := self._next_case()) is not None:
            case, share, left = job
            if left and process.ended and not self._restarted(process):
                with self.lock:
                    self.serving -= 1
                    self.waiting.appendleft(case)
                return
            started = time.monotonic()
            answer = process.ask({"case": case, "share": share, "limit": left}) if left else {}
            for message in answer.get("warnings", ()):
                self.log(f"warning: {message}")
            self._record(case, answer, share, time.monotonic() - started, process)

    def _next_case(self) -> tuple[Case, float, float] | None:
        with self.lock:
            if not self.waiting:
                return None
            left = max(0.0, self.deadline - time.monotonic())
            share = left * min(1.0, self.serving / len(self.waiting))
            return self.waiting.popleft(), share, left

    def _record(self, case: Case, answer: dict[str, Any], share: float, seconds: float, process: _Process) -> None:
        views, error = answer.get("views", 0), answer.get("error", "")
        status = PREDICTED if views else FAILED if error and time.monotonic() <= self.deadline else NO_TIME
        with self.lock:
            self.outcomes[case["id"]] = Outcome(case["id"], case["image"], status, views, seconds, share, error)
            position = f"{len(self.outcomes)}/{self.total}"
        if views:
            words = f"{views} of {process.about['views']} views in {seconds:.1f} s"
        else:
            words = status.upper() + (f": {error}" if error else "")
        self.log(f"{position}  {case['id']}  {words}  (share {share:.1f} s, {process.about['device']})")

    def _restarted(self, process: _Process) -> bool:
        process.start()
        error = process.why_unusable()
        if error is not None:
            self.log(str(error))
            process.stop()
        return error is None


def _ready(processes: list[_Process], *, chosen: bool, log: Callable[[str], None]) -> list[_Process]:
    """Wait for the processes, and raise if none can be used; of those on the CPU for lack of a GPU, one is kept."""
    answers = [(process, process.why_unusable()) for process in processes]
    ready = [process for process, error in answers if error is None]
    errors = [error for _, error in answers if error is not None]
    if not ready:
        raise errors[0]
    for error in errors:
        log(str(error))
    useful = ready if chosen else [process for process in ready if process.about["gpu"]] or ready[:1]
    for process in processes:
        if process not in useful:
            process.stop()
    log("predicting on: " + ", ".join(process.about["device"] for process in useful))
    return useful


def _keep_current(process: _Process, cases: list[Case], output_dir: Path, log: Callable[[str], None]) -> list[str]:
    """Return the cases whose predictions are up to date; others are deleted.

    Raises:
        RuntimeError: this failed, so that outdated predictions would be submitted.
    """
    if not any(output_dir.iterdir()):
        return []
    answer = process.ask({"cases": cases})
    if "error" in answer:
        raise RuntimeError(f"{output_dir}: earlier predictions could not be looked at: {answer['error']}")
    log(f"{len(answer['kept'])} of {len(cases)} predictions were there already")
    return answer["kept"]


def _fitting(devices: list[str], voxels: int, log: Callable[[str], None]) -> list[str]:
    """Return as many devices as main memory has room for with the largest volume, at least one."""
    free = free_bytes()
    if free is None or len(devices) == 1:
        return devices
    number = max(1, int(free // (PROCESS_BYTES + BYTES_PER_VOXEL * voxels)))
    if number < len(devices):
        log(f"{free / 2**30:.0f} GiB of main memory: {number} of {len(devices)} GPUs are used at a time")
    return devices[:number]


def _voxels(path: str) -> int:
    try:
        header = read_shape(path)
        return int(np.prod(header[0] if header else read_volume(path).array.shape))
    except DataError:
        return 1  # its process will report the error
