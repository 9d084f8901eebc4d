"""TensorBoard logs of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events

from ..configuration import without_effect
from ..system.files import dispensable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_HELD_STEPS = 20


@without_effect()
class TensorBoard:
    """Writes event files for TensorBoard.

    For each iteration: the loss and its ``components`` (if it has that attribute), the learning rate and the gradient
    norm. For each epoch: the measurements of :class:`Resources`, the validation metrics, and the pictures of
    :class:`Panels`. Values are fetched from the GPU every 20 iterations. A resumed run continues the same curves. List
    it after the ``ValidationHandler``.

    Example: ``{"_target_": "custom.handlers.TensorBoard", "output_dir": "@results_dir", "optimizer": "@optimizer"}``
    """

    def __init__(
        self,
        *,
        output_dir: str,
        optimizer: torch.optim.Optimizer,
        loss: torch.nn.Module | None = None,
        evaluator: Engine | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.optimizer = optimizer
        self.losses = [] if loss is None else [part for part in loss.modules() if hasattr(part, "components")]
        self.evaluator = evaluator
        self._held: list[tuple[int, dict[str, Any]]] = []
        self._validated = self._given_up = False
        self._opened: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._try, self._hold)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._try, self._write_epoch)
        for end in (Events.TERMINATE, Events.COMPLETED):
            engine.add_event_handler(end, self._try, self._close)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, lambda _: setattr(self, "_validated", True))

    def _try(self, engine: Engine, work: Callable[[Engine], None]) -> None:
        """Call ``work``; after the first error (full disk) no more curves are written, and training continues."""
        if self._given_up:
            return
        self._given_up = True
        with dispensable(self.output_dir):
            work(engine)
            self._given_up = False

    def _hold(self, engine: Engine) -> None:
        components = {name: value for part in self.losses for name, value in part.components.items()}
        values = {
            "train/loss": engine.state.output["loss"].detach(),
            **{f"train/loss_{name}": value for name, value in components.items()},
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if hasattr(engine.state, "gradient_norm"):
            values["train/gradient_norm"] = engine.state.gradient_norm
        self._held.append((engine.state.iteration, values))
        if len(self._held) >= _HELD_STEPS:
            self._write_held()

    def _write_held(self) -> None:
        tensors = [value for _, values in self._held for value in values.values() if isinstance(value, torch.Tensor)]
        numbers = iter(torch.stack([tensor.float() for tensor in tensors]).tolist() if tensors else ())
        for step, values in self._held:
            for name, value in values.items():
                number = next(numbers) if isinstance(value, torch.Tensor) else value
                self._writer(step).add_scalar(name, number, step)
        self._held = []

    def _write_epoch(self, engine: Engine) -> None:
        from matplotlib.image import imread

        self._write_held()
        step = engine.state.iteration
        writer = self._writer(step)
        for name, value in getattr(engine.state, "resources", {}).items():
            writer.add_scalar(f"resources/{name}", value, step)
        if self._validated:
            for name, value in self.evaluator.state.metrics.items():
                if torch.as_tensor(value).numel() == 1:
                    writer.add_scalar(f"validation/{name}", float(value), step)
            for picture in sorted((self.output_dir / "panels").glob("[!.]*.png")):  # hidden ones are incomplete
                writer.add_image(f"panels/{picture.stem}", imread(picture)[..., :3], step, dataformats="HWC")
        self._validated = False
        writer.flush()

    def _writer(self, step: int) -> "SummaryWriter":
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            # hides what an interrupted session logged after the checkpoint
            self._opened = SummaryWriter(str(self.output_dir), purge_step=step)
        return self._opened

    def _close(self, _: Engine) -> None:
        self._write_held()
        if self._opened is not None:
            self._opened.close()
        self._opened = None
