"""Inference that continues after a failed case."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from ..configuration import without_effect
from ..data.predictions import PredictionRecord
from ..errors import DataError, find_data_error, one_line

logger = logging.getLogger(__name__)


@without_effect()
class PerCaseUpdate:
    """An ``iteration_update`` for an evaluator that continues after a failed case, and raises an error at the end.

    The batches, of one case each, come from :class:`custom.data.InferenceDataset`.

    Example: ``"iteration_update": {"_target_": "custom.handlers.PerCaseUpdate", "output_dir": "@output_dir"}``

    Args:
        output_dir: folder of the predictions, for the error message.
        record: registers each prediction that was written.

    Raises:
        DataError: at the end of the run, if a case could not be read, predicted or written.
    """

    def __init__(self, *, output_dir: str, record: PredictionRecord | None = None) -> None:
        self.output_dir = output_dir
        self.record = record
        self.done = 0
        self.again: Counter[str] = Counter()
        self.failed: list[str] = []

    def __call__(self, engine: SupervisedEvaluator, batch: Mapping[str, Any]) -> Any:
        """Predict one case."""
        if not engine.has_event_handler(self._report, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._report)
        if "done" in batch:
            self.done += 1
        elif "failed" in batch:
            self._fail(batch["failed"][0])
        else:
            try:
                output = engine._iteration(engine, batch)  # which also writes it
                if self.record is not None and "source" in batch:
                    self.record.complete(batch["source"][0], batch["id"][0])
                    self.again.update(filter(None, batch["again"]))
                return output
            except Exception as error:
                unexpected = None if find_data_error(error) else error
                self._fail(one_line(error, batch["id"][0]), unexpected)
        return {}

    def _fail(self, message: str, error: Exception | None = None) -> None:
        self.failed.append(message)
        logger.error(message, exc_info=error)

    def _report(self, engine: Engine) -> None:
        total, done, again, failed = engine.state.iteration, self.done, self.again, self.failed
        self.done, self.again, self.failed = 0, Counter(), []
        if done:
            logger.info("%d of %d predictions were there already (overwrite: true repeats them)", done, total)
        for why, number in again.items():
            logger.warning("%d of %d predictions were made again, since existing ones were of %s", number, total, why)
        if failed and total == 1:
            raise DataError(failed[0])
        if failed:
            for message in failed:
                logger.error("failed: %s", message)
            more = f" and {len(failed) - 1} more, listed above" if len(failed) > 1 else ""
            found = f"{len(failed)} that failed ({failed[0]}{more})"
            raise DataError.of(f"{total} cases", found, f"none; the others are in {self.output_dir}")
