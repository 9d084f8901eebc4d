"""The error for unusable input, and how it is shown."""

import difflib
import sys
from collections.abc import Iterable
from types import TracebackType

_LONGEST = 1000
"""Number of characters of ``found`` that are shown."""


class DataError(ValueError):
    """A file or setting cannot be used.

    The message is one line that names the file, what was found and what was expected.

    Example: ``raise DataError.of("scan.nii.gz", "an empty file", "a volume")``
    """

    @classmethod
    def of(cls, path: object, found: str, expected: str) -> "DataError":
        """Build an error with the message ``path: found ..., expected ...``.

        ``found`` may quote a damaged file: it is shown on one line, and truncated.
        """
        shown = "".join(letter if letter.isprintable() else " " for letter in found[:_LONGEST])
        return cls(f"{path}: found {shown}{'...' * (len(found) > _LONGEST)}, expected {expected}")


def find_data_error(error: BaseException | None) -> DataError | None:
    """Return the :class:`DataError` in a chain of exceptions, in which MONAI's parser may have wrapped it."""
    while error is not None and not isinstance(error, DataError):
        error = error.__cause__ or error.__context__
    return error


def one_line(error: BaseException, what: object) -> str:
    """Describe an error of a file or case ``what`` in one line: the :class:`DataError`, or else the first cause."""
    data_error = find_data_error(error)
    while error.__cause__ is not None:  # MONAI wraps errors of transforms
        error = error.__cause__
    message = f"{what}: {type(error).__name__}: {error}" if data_error is None else str(data_error)
    return " ".join(message.split())


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known name most similar to a misspelt one; None if no similarity reaches ``least``, from 0 to 1."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, least)), None)


def show_data_errors_as_one_line() -> None:
    """Print an uncaught :class:`DataError` without traceback; other errors are shown as usual.

    The exit code is 1 as before, and code that catches exceptions is not affected.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        data_error = find_data_error(error)
        if data_error is None:
            previous(kind, error, traceback)
        else:
            print(f"error: {data_error}", file=sys.stderr)

    sys.excepthook = hook
