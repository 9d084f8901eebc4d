"""Makes ``--tracking mlflow`` of MONAI's runner work with trainers that do not decollate their outputs."""

import functools
from importlib.util import find_spec
from typing import Any

from monai.handlers import MLFlowHandler

from ..errors import DataError


def support_mlflow() -> None:
    """Patch MONAI's ``MLFlowHandler`` to accept the loss of a trainer with ``decollate: false``, a tuple of one.

    The runner creates that handler itself, so no configuration can change it. If mlflow is not installed, the handler
    raises a :class:`DataError` of one line.
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
    """Return the element of a tuple of one; any other value unchanged."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value
