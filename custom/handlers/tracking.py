"""``--tracking mlflow`` of MONAI's runner, whose handler expects a trainer that takes its batches apart."""

import functools
from importlib.util import find_spec
from typing import Any

from monai.handlers import MLFlowHandler

from ..errors import DataError


def support_mlflow() -> None:
    """Let MONAI's ``MLFlowHandler`` log the loss of a trainer with ``decollate: false``, which reaches it in a tuple.

    The runner adds that handler itself, so there is no entry of a configuration to change. Where mlflow is missing, one
    line says so instead of what MONAI raises from its configuration's depths.
    """
    make = MLFlowHandler.__init__

    @functools.wraps(make)
    def checked(self: MLFlowHandler, *args: Any, **kwargs: Any) -> None:
        if find_spec("mlflow") is None:
            raise DataError.of("--tracking mlflow", "no package mlflow", "it installed: pip install mlflow")
        make(self, *args, **kwargs)
        transform = self.output_transform
        self.output_transform = lambda output: single(transform(output))

    MLFlowHandler.__init__ = checked


def single(value: Any) -> Any:
    """What a tuple of one holds; anything else as it is."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value
