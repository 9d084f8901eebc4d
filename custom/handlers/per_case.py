"""Inference that continues after a failed case."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from ..configuration import without_effect
from ..data.inference import AGAIN, DONE, FAILED, SHARED, SOURCE
from ..data.predictions import PredictionRecord
from ..errors import DataError, find_data_error, one_line
from ..system.distributed import gather, rank
from .case_items import Item
from .case_workers import CaseError, CaseWorkers

logger = logging.getLogger(__name__)


@without_effect("output_dir", "record", "workers", "timeout_s")
class PerCaseUpdate:
    """An ``iteration_update`` for an evaluator that continues after a failed case, and raises an error at the end.

    The batches, of one case each, come from :class:`custom.data.InferenceDataset`. A prediction is post-processed and
    written in a worker process, while the network predicts the next cases; the run ends when all are written.

    Example: ``"iteration_update": {"_target_": "custom.handlers.PerCaseUpdate", "output_dir": "@output_dir",
    "postprocessing": "@postprocessing"}``

    Args:
        postprocessing: a transform of the items, which also writes the prediction.
        workers, timeout_s: see :class:`.case_workers.CaseWorkers`.

    Raises:
        DataError: at the end of the run, if a case could not be read, predicted or written; on rank 0 of several, which
            waits for the others.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        record: PredictionRecord | None = None,
        postprocessing: Callable[[Item], Item] | None = None,
        workers: int | None = None,
        timeout_s: float = 3600.0,
    ) -> None:
        self.output_dir = output_dir
        self.record = record
        self.workers = CaseWorkers(postprocessing, workers=workers, timeout_s=timeout_s)
        self._reset()

    def _reset(self) -> None:
        self.total = self.done = 0
        self.again: Counter[str] = Counter()
        self.failed: list[str] = []
        self._cases: dict[str, Mapping[str, Any]] = {}

    def __call__(self, engine: SupervisedEvaluator, batch: Mapping[str, Any]) -> Any:
        if not engine.has_event_handler(self._report, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._report)
            self.workers.prepare(engine.state.device)
        self.total += SHARED not in batch
        if DONE in batch:
            self.done += 1
        elif FAILED in batch:
            self._fail(DataError(batch[FAILED][0]), batch["id"][0])
        elif SHARED not in batch:
            name = batch["id"][0]
            try:
                output = engine._iteration(engine, batch)
                self._cases[name] = {key: batch[key][0] for key in (SOURCE, AGAIN) if key in batch}
                (given,), (predicted,) = engine.state.batch, engine.state.output
                self.workers.submit(name, {**predicted, **given}, [], engine.state.device)
            except Exception as error:
                self._fail(error, name)
            else:
                return output
            finally:
                self._collect()
        return {}

    def _collect(self, *, wait: bool = False) -> None:
        for name, written in self.workers.finished(wait=wait):
            try:
                written()
                case = self._cases.pop(name)
                if self.record is not None and SOURCE in case:
                    self.record.complete(case[SOURCE], name)
                    self.again.update(filter(None, [case[AGAIN]]))
            except Exception as error:
                self._fail(error, name)

    def _fail(self, error: Exception, name: str) -> None:
        message = str(error) if isinstance(error, CaseError) else one_line(error, name)
        self.failed.append(message)
        logger.error(message, exc_info=None if find_data_error(error) else error)

    def _report(self, _: Engine) -> None:
        self._collect(wait=True)
        self.workers.close()
        ranks = gather((self.total, self.done, self.again, self.failed))
        self._reset()
        if rank() > 0:
            return
        total, done, again = (sum(values, type(values[0])()) for values in list(zip(*ranks, strict=True))[:3])
        failed = [message for *_, messages in ranks for message in messages]
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
