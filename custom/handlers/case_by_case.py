"""One bad volume among many: the others are predicted, and the end says which it was."""

import logging
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from ..errors import DataError, find_data_error, one_line

logger = logging.getLogger(__name__)


class CaseByCase:
    """The step of an evaluator that goes on after a case that fails, and raises when all others are done.

    Give it to the evaluator twice: as ``iteration_update`` and among the handlers. The items come, one in a batch, from
    :class:`custom.data.inference.InferenceDataset`.

    Args:
        output_dir: where the predictions are, for the message.

    Raises:
        DataError: at the end of the run, if a case could not be read, predicted or written.
    """

    def __init__(self, *, output_dir: str) -> None:
        self.output_dir = output_dir
        self.done = 0
        self.failed: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def __call__(self, engine: SupervisedEvaluator, batch: Mapping[str, Any]) -> Any:
        """Predict one case."""
        if "done" in batch:
            self.done += 1
        elif "failed" in batch:
            self._fail(batch["failed"][0])
        else:
            try:
                return engine._iteration(engine, batch)
            except Exception as error:
                unexpected = None if find_data_error(error) else error
                self._fail(one_line(error, batch["id"][0]), unexpected)
        return {}

    def _start(self, _: Engine) -> None:
        self.done, self.failed = 0, []

    def _fail(self, message: str, error: Exception | None = None) -> None:
        self.failed.append(message)
        logger.error(message, exc_info=error)

    def _report(self, engine: Engine) -> None:
        total = engine.state.iteration
        if self.done:
            logger.info("%d of %d predictions were there already (overwrite: true makes them again)", self.done, total)
        if total == 1 and self.failed:
            raise DataError(self.failed[0])
        if self.failed:
            for message in self.failed:
                logger.error("failed: %s", message)
            more = f" and {len(self.failed) - 1} more, listed above" if len(self.failed) > 1 else ""
            found = f"{len(self.failed)} that failed ({self.failed[0]}{more})"
            raise DataError.of(f"{total} cases", found, f"none; the others are in {self.output_dir}")
