"""The one error a user's data can cause, and how it is shown."""

import difflib
import sys
from collections.abc import Iterable
from types import TracebackType

_LONGEST = 1000
"""Letters of what was found."""


class DataError(ValueError):
    """A file cannot be used as it is.

    The message is one line that names the file, what was found in it and what was expected.
    """

    @classmethod
    def of(cls, path: object, found: str, expected: str) -> "DataError":
        """Build the message every refusal has: ``path: found ..., expected ...``.

        What was found may be quoted from a damaged file: it is shown on one line, and not at any length.
        """
        shown = "".join(letter if letter.isprintable() else " " for letter in found[:_LONGEST])
        return cls(f"{path}: found {shown}{'...' * (len(found) > _LONGEST)}, expected {expected}")


def find_data_error(error: BaseException | None) -> DataError | None:
    """The :class:`DataError` in a chain of exceptions; MONAI's config parser wraps errors in its own."""
    while error is not None and not isinstance(error, DataError):
        error = error.__cause__ or error.__context__
    return error


def one_line(error: BaseException, what: object) -> str:
    """What went wrong with ``what``, a file or a case: the :class:`DataError` that names it, or the first cause."""
    data_error = find_data_error(error)
    while error.__cause__ is not None:  # MONAI wraps what happens in a transform
        error = error.__cause__
    message = f"{what}: {type(error).__name__}: {error}" if data_error is None else str(data_error)
    return " ".join(message.split())


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """The known name that a mistyped one resembles most, by at least ``least`` of 1; None if none does."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, least)), None)


def show_data_errors_as_one_line() -> None:
    """Print an uncaught :class:`DataError` without its traceback; every other error is shown as usual.

    The interpreter still ends with exit code 1. Code that catches exceptions notices no difference.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        data_error = find_data_error(error)
        if data_error is None:
            previous(kind, error, traceback)
        else:
            print(f"error: {data_error}", file=sys.stderr)

    sys.excepthook = hook
