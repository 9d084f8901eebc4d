"""Stopping a run within its time limit or on a signal, with a checkpoint from which it resumes."""

import os
import shlex
import signal
import sys
import threading
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..system.distributed import any_rank, control_group, rank, world_size
from .accumulation import ends_step
from .checkpoints import Checkpoints

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REMEMBERED = 50
_FIRST_WRITE = 100e6
"""Bytes per second assumed until the first checkpoint has been written."""


@without_effect()
class Budget:
    """Stops a run at its time limit, or on SIGTERM or SIGINT, so that ``--resume True`` continues it.

    Before each optimizer step and each validation it checks that there is time left for the next one and a checkpoint,
    estimated by the slowest of the last 50 steps or by the longest validation so far. The first validation, whose
    duration is unknown, is interrupted when there is no time for another volume. A signal stops the run after the
    current optimizer step, or after the current volume of a validation; a second signal has its usual effect.
    The process exits with code 0 and prints the command that continues the run.

    List it before :class:`Checkpoints`, and after the ``ValidationHandler``.

    Example: ``{"_target_": "custom.handlers.Budget", "checkpoints": "@checkpoints", "hours": 11.5}``

    Args:
        checkpoints: those of the run; None if it has none, so that it cannot be continued.
        hours: limit, counted from the start of the process and thus including set-up and caching; None: no limit.
    """

    def __init__(
        self,
        *,
        checkpoints: Checkpoints | None,
        hours: float | None = None,
        evaluator: Engine | None = None,
    ) -> None:
        self.checkpoints, self.hours, self.evaluator = checkpoints, hours, evaluator
        self._deadline = float("inf")
        self._signal = 0
        self._stopped = False
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._size: int | None = None
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._step_started = self._validation_started = self._volume_started = 0.0
        self._validation = self._volume = 0.0
        """Seconds of the longest."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._before_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._between_steps)
        engine.add_event_handler(Events.TERMINATE, self._print_resume_command)
        for end in (Events.TERMINATE, Events.COMPLETED):
            engine.add_event_handler(end, self._release_signals)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.STARTED, self._before_validation, engine)
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._within_validation, engine)
            self.evaluator.add_event_handler(Events.COMPLETED, self._after_validation)

    def _start(self, engine: Engine) -> None:
        self._group = control_group()
        if self.hours is not None:
            # for what follows the last checkpoint: stopping workers, drawing curves, the interpreter's exit
            reserve = min(30.0, max(1.0, 0.02 * 3600 * self.hours))
            self._deadline = time.monotonic() - process_age() + 3600 * self.hours - reserve
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._remember_signal) for number in _SIGNALS}

    def _remember_signal(self, number: int, _: Any) -> None:
        self._signal = number
        self._release_signals()

    def _release_signals(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _before_epoch(self, engine: Engine) -> None:
        self._step_started = time.monotonic()
        self._stop_unless_fits(engine, max(self._steps, default=0.0))

    def _between_steps(self, engine: Engine) -> None:
        if not ends_step(engine):
            return
        now = time.monotonic()
        self._steps.append(now - self._step_started)
        self._step_started = now
        if engine.state.iteration % engine.state.epoch_length:  # otherwise checked before validation or epoch
            self._stop_unless_fits(engine, max(self._steps))

    def _before_validation(self, evaluator: Engine, engine: Engine) -> None:
        self._validation_started = self._volume_started = time.monotonic()
        if self._stop_unless_fits(engine, self._validation):
            evaluator.terminate(skip_completed=True)

    def _within_validation(self, evaluator: Engine, engine: Engine) -> None:
        now = time.monotonic()
        self._volume = max(self._volume, now - self._volume_started)
        self._volume_started = now
        last = evaluator.state.iteration == evaluator.state.epoch_length
        # ranks may validate different numbers of volumes, so a collective decision is not possible here
        if world_size() == 1 and self._stop_unless_fits(engine, 0.0 if last else self._volume):
            evaluator.terminate(skip_completed=True)

    def _after_validation(self, _: Engine) -> None:
        self._validation = max(self._validation, time.monotonic() - self._validation_started)

    def _stop_unless_fits(self, engine: Engine, seconds: float) -> bool:
        """Terminate training if a signal came or there is no time for ``seconds`` of work and a checkpoint."""
        left = self._deadline - time.monotonic()
        short = self.hours is not None and left < seconds + self._seconds_of_checkpoint()
        stop = any_rank(bool(self._signal) or short, self._group)
        if stop:
            self._stopped = True
            engine.terminate(skip_completed=True)
        return stop

    def _seconds_of_checkpoint(self) -> float:
        if self.checkpoints is None:
            return 0.0
        if self.checkpoints.seconds:
            return 1.5 * self.checkpoints.seconds
        if not self._steps or self._size is None:  # the optimizer's state exists after its first step
            self._size = self.checkpoints.size
        return self._size / _FIRST_WRITE

    def _print_resume_command(self, engine: Engine) -> None:
        if rank() != 0 or not self._stopped:
            return
        if self._signal:
            reason = signal.Signals(self._signal).name
        else:
            reason = "a signal to another rank" if self.hours is None else f"the budget of {self.hours:g} h"
        done, total = engine.state.iteration, engine.state.epoch_length * engine.state.max_epochs
        stopped = f"Stopped by {reason} after {done} of {total} steps."
        if self.checkpoints is None:
            print(stopped, "It cannot be continued: checkpoints are switched off.", flush=True)
            return
        self.checkpoints.wait()
        print(f"{stopped} This continues the run:\n  {continuing_line()}", flush=True)


def continuing_line() -> str:
    """Return this process's command line with ``--resume True``."""
    words = ["python", *sys.orig_argv[1:]]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun adds -u
        own = [word for word in words[1:] if word != "-u"]
        words = ["torchrun", f"--nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '1')}", *own]
    kept = [
        word
        for before, word in pairwise(["", *words])
        if word.split("=")[0] != "--resume" and (before != "--resume" or word.startswith("-"))
    ]
    return " ".join(map(_quoted, [*kept, "--resume", "True"]))


def _quoted(word: str) -> str:
    """Quote for a shell, with double quotes where single ones would have to be escaped."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def process_age() -> float:
    """Return the seconds since this process was started."""
    started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started  # /proc/uptime is the container's in some of them
