"""Checkpoints from which an interrupted training resumes exactly."""

import logging
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.utils._pytree import tree_leaves, tree_map_only

from ..configuration import Configuration, differences, without_effect
from ..data.cached_volume import CachedVolume
from ..errors import DataError
from ..system.distributed import gather, rank, unwrapped, world_size
from ..system.files import indispensable, write_whole
from .accumulation import ends_step

WEIGHTS = ("model.pt", "model_final.pt", "model.ts", "model.onnx")
"""Weights of a run and exports of them, in the parent folder of the checkpoints."""
TABLES = ("metrics.csv", "cases.csv")
RESULTS = (
    *(*TABLES, "curves.png", "scores.json", "dice_histogram.png", "non_finite.json"),
    *("panels/*.png", "events.out.tfevents.*"),
)
"""Files that handlers write into a run's results folder."""
VERSION = "version of checkpoints"

logger = logging.getLogger(__name__)


@without_effect()
class Checkpoints:
    """Saves the whole state of a run as ``step_<iteration>.pt``, and resumes a run from the newest checkpoint.

    A run resumes exactly after any interruption, also within an epoch or a validation: weights, tables and best score
    are those of an uninterrupted run (bit for bit on a CPU in float32). This requires batches that depend on the
    iteration alone (:class:`custom.data.StreamLoader`), and so for random numbers in the network (:class:`SeedSteps`).
    An interrupted validation is repeated.

    Checkpoints are written every ``minutes``, before and after each validation, and when the run is stopped; between
    optimizer steps, in a background thread, to a temporary file that is then renamed. They record the settings that
    can change results, with the precision in use for ``"auto"``, and hashes of the volumes; a run that differs in these
    is refused. If a checkpoint cannot be
    written (full disk), a warning is logged and training continues; only for the last one it is an error.
    List this handler after all handlers of the trainer that change the state.

    Example: ``{"_target_": "custom.handlers.Checkpoints", "folder": "models/checkpoints",
    "objects": {"network": "@network", "optimizer": "@optimizer"}, "evaluator": "@validate#evaluator"}``

    Args:
        objects: all objects to save by their ``state_dict``, by name: network, optimizer, schedule, loss, EMA, history.
        resume: whether to continue from the newest checkpoint; without any, training starts at step 0.
        overwrite: whether to delete checkpoints, weights and results of an earlier run when not resuming.
        changed_data: whether to resume even though volumes have changed.
        cases: the training cases, as from :func:`custom.data.find_cases`; their ids must not change.
        volumes: volumes of training and validation, from :class:`custom.data.VolumeCache`; their content is compared.
        results: the run's results folder; tables of another run in it are not overwritten.
        configuration: the run's configuration; settings that can change results must not change.

    Raises:
        DataError: at the start: a run with other settings or data, or any run if neither ``resume`` nor ``overwrite``;
            no readable checkpoint; too little free space. At the end: the last checkpoint cannot be written.
    """

    def __init__(
        self,
        *,
        folder: str,
        objects: Mapping[str, Any],
        evaluator: Engine | None = None,
        resume: bool = False,
        overwrite: bool = False,
        changed_data: bool = False,
        minutes: float = 10.0,
        keep: int = 2,
        cases: Sequence[Mapping[str, Any]] = (),
        volumes: Sequence[Sequence[CachedVolume]] = (),
        results: str | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.objects = {
            name: unwrapped(thing) if isinstance(thing, torch.nn.Module) else thing for name, thing in objects.items()
        }
        self.evaluator = evaluator
        self.resume = resume
        self.overwrite = overwrite
        self.changed_data = changed_data
        self.minutes = minutes
        if keep < 1:
            raise DataError.of("keep", f"{keep} checkpoints", "1 or more")
        self.keep = keep
        self.volumes = {volume.id: volume for listed in volumes for volume in listed}
        self.results = None if results is None else Path(results)
        self.cases = [str(case["id"] if "id" in case else case["image"]) for case in cases]
        self.configuration = configuration
        self.seconds = 0.0
        """Duration of saving the last checkpoint."""
        self._settings: dict[str, Any] = {}
        self._saved_at = 0.0
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_between_steps)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_epoch)
        engine.add_event_handler(Events.TERMINATE, lambda _: self.wait())
        engine.add_event_handler(Events.COMPLETED, lambda _: self.wait())

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            DataError: it cannot be written.
        """
        if self._writing is not None:
            with indispensable(self.folder, "a checkpoint"):
                self._writing.result()

    @property
    def size(self) -> int:
        """Approximate size of a checkpoint in bytes."""
        size = _size({name: thing.state_dict() for name, thing in self.objects.items()})
        optimizer = self.objects.get("optimizer")
        if optimizer is not None and not optimizer.state:  # before its first step; Adam keeps two values a weight
            size += 2 * _size([group["params"] for group in optimizer.param_groups])
        return size

    def check_space(self) -> None:
        """Check that the disk has room for the checkpoints.

        Raises:
            DataError: the folder's disk has too little free space.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self.size
        existing = sum(file.stat().st_size for file in self._files())
        missing = (self.keep + 1) * size - existing - shutil.disk_usage(self.folder).free
        if missing > 0:
            raise DataError.of(
                self.folder,
                f"{missing / 2**30:.1f} GiB too little free space for {self.keep + 1} checkpoints",
                f"{(self.keep + 1) * size / 2**30:.1f} GiB; set --model_dir elsewhere",
            )

    def _start(self, engine: Engine) -> None:
        self._settings = self._current_settings(engine)
        self._saved_at = time.monotonic()
        found = gather(self._prepare_folder() if rank() == 0 else None)[0]
        if found is None:
            logger.info("training starts at step 0")
        else:
            self._continue(engine, found)

    def _prepare_folder(self) -> Path | None:
        """Return the checkpoint to resume from, if any; otherwise make sure that the folder is free for a new run."""
        for partial in self.folder.glob(".*step_*.pt"):
            partial.unlink()
        self.check_space()
        newest = self._newest()
        if newest is None or not self.resume:
            self._clear_folder(newest)
            return None
        return newest

    def _current_settings(self, engine: Engine) -> dict[str, Any]:
        settings = {} if self.configuration is None else self.configuration.effective()
        in_use = getattr(getattr(engine, "inferer", None), "precision", "auto")
        settings |= {id: in_use for id, value in settings.items() if _is_automatic_precision(id, value)}
        return {VERSION: 2, **settings, "number of ranks": world_size(), "training cases": self.cases}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"), reverse=True)

    def _newest(self) -> Path | None:
        files = self._files()
        for path in files:
            if _is_whole(path):
                return path
            logger.warning("%s: a damaged checkpoint, using the one before", path)
        if files:
            raise DataError.of(self.folder, "only damaged checkpoints", "a whole one, or the folder removed")
        return None

    def _clear_folder(self, newest: Path | None) -> None:
        """Remove the files of an earlier run if ``overwrite`` is set; otherwise raise if there are any."""
        weights = [path for name in WEIGHTS if (path := self.folder.parent / name).is_file()]
        results = [path for name in RESULTS for path in self.results.glob(name)] if self.results else []
        if not self.overwrite:
            self._refuse_to_replace(newest, weights, [path for path in results if path.name in TABLES])
        # Weights and tables of one run must not be mixed with those of another.
        for file in [*self._files(), *weights, *results]:
            file.unlink()

    def _refuse_to_replace(self, newest: Path | None, weights: list[Path], tables: list[Path]) -> None:
        start_anew = "another --model_dir, or --overwrite True to replace it"
        if newest is not None:
            state = _read(newest)
            steps = f"run ({state['iteration']} steps done)"
            if not state["finished"]:
                raise DataError.of(newest, f"an unfinished {steps}", f"--resume True to continue it, {start_anew}")
            raise DataError.of(newest, f"a finished {steps}", start_anew)
        if weights:
            raise DataError.of(weights[0], "weights of another run, without its checkpoints", start_anew)
        if tables:
            raise DataError.of(tables[0], "results of another run", start_anew.replace("model_dir", "output_dir"))

    def _continue(self, engine: Engine, path: Path) -> None:
        state = _read(path)
        if VERSION not in state["settings"]:
            raise DataError.of(path, "a run of version 0.1.0", "one of this version; finish it with 0.1.0, or restart")
        if different := different_settings(state["settings"], self._settings):
            raise DataError.of(path, f"a run of other settings ({different})", "the same, or another --model_dir")
        self._refuse_other_data(path, state.get("data", {}))
        for name, thing in self.objects.items():
            thing.load_state_dict(state["objects"][name])
        if state["scaler"]:
            if engine.scaler is None:
                raise DataError.of(path, "a run in float16", "--precision float16, or another --model_dir")
            engine.scaler.load_state_dict(state["scaler"])
        if self.evaluator is not None:
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = state["best"]
        engine.state.iteration = state["iteration"]
        engine.state.epoch = state["iteration"] // engine.state.epoch_length
        logger.info("training continues after step %d (%s)", state["iteration"], path)
        if state["epoch_pending"]:
            engine.fire_event(Events.EPOCH_COMPLETED)
        if state["finished"]:
            logger.info("the run was complete")
            engine.terminate()

    def _refuse_other_data(self, path: Path, saved: dict[str, dict[str, str]]) -> None:
        """Compare the content of the volumes; the ids of the training cases have been compared as settings."""
        if self.changed_data or not saved or not self.volumes:
            return
        changed = []
        for name, volume in self.volumes.items():
            before, files = saved.get(name, {}), {"image": volume.image_path, "label": volume.label_path}
            now = volume.content
            changed += [file or name for kind, file in files.items() if before.get(kind) != now.get(kind)]
        changed += [name for name in saved if name not in self.volumes]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            found = f"a run on other data (not as they were: {', '.join(changed[:3])}{more})"
            raise DataError.of(path, found, "the same, another --model_dir, or --changed_data True to go on with these")

    def _save_between_steps(self, engine: Engine) -> None:
        pending = engine.state.iteration % engine.state.epoch_length == 0
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        if ends_step(engine) and (due or pending or engine.should_terminate):
            self._save(engine, epoch_pending=pending)

    def _save_epoch(self, engine: Engine) -> None:
        if engine.should_terminate == "skip_completed":
            return  # the validation was interrupted; resuming repeats it
        done = engine.state.iteration >= engine.state.epoch_length * engine.state.max_epochs
        self._save(engine, finished=done or bool(engine.should_terminate))

    def _save(self, engine: Engine, *, epoch_pending: bool = False, finished: bool = False) -> None:
        self._saved_at = started = time.monotonic()
        if rank() != 0:
            return
        state = self._state_of(engine) | {"epoch_pending": epoch_pending, "finished": finished}
        try:
            self.wait()  # also raises what went wrong in the background thread
        except DataError as error:
            logger.warning("%s; training goes on, and the next one is tried", error)
        path = self.folder / f"step_{engine.state.iteration:08d}.pt"
        self._writing = self._writer.submit(self._write, path, state, started)

    def _state_of(self, engine: Engine) -> dict[str, Any]:
        evaluator, scaler = self.evaluator, getattr(engine, "scaler", None)
        return {
            "settings": self._settings,
            "data": {name: volume.content for name, volume in self.volumes.items()},
            "iteration": engine.state.iteration,
            "best": None
            if evaluator is None
            else (float(evaluator.state.best_metric), evaluator.state.best_metric_epoch),
            "scaler": {} if scaler is None else scaler.state_dict(),
            # copies, so that training does not change them while they are written
            "objects": tree_map_only(
                torch.Tensor,
                lambda tensor: tensor.detach().to("cpu", copy=True),
                {name: thing.state_dict() for name, thing in self.objects.items()},
            ),
        }

    def _write(self, path: Path, state: dict[str, Any], started: float) -> None:
        write_whole(path, lambda file: torch.save(state, file))
        for old in self._files()[self.keep :]:
            old.unlink()
        self.seconds = time.monotonic() - started


def _size(state: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))


def _is_whole(path: Path) -> bool:
    """Whether the file can be read and its checksums match; torch does not verify them."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def made_from(path: Path) -> dict[str, Any]:
    """Return settings and data of the run that wrote a checkpoint; empty if the file cannot be read."""
    try:
        state = _read(path)
        return {**state["settings"], "data": state.get("data")}
    except (DataError, KeyError, TypeError):
        return {}


def different_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the settings of two runs that differ; earlier versions did not record the precision of ``"auto"``."""
    unknown = {id for settings in (saved, now) for id, value in settings.items() if _is_automatic_precision(id, value)}
    return differences(*({id: value for id, value in run.items() if id not in unknown} for run in (saved, now)))


def _is_automatic_precision(id: str, value: Any) -> bool:
    return value == "auto" and id.rpartition("#")[2] == "precision"


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of errors for damaged files
        raise DataError.of(
            path, f"an unreadable file ({type(error).__name__})", "a checkpoint of this package"
        ) from error
