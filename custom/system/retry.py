"""Requests to servers, made again where the failure may be transient (a busy server, a dropped connection)."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import DataError

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds. The pause doubles after each try."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def retry(request: Callable[[], Result], url: str) -> Result:
    """Make a request, and make it again after a transient failure.

    Raises:
        DataError: a lasting failure, or a transient one in the last try.
    """
    number = 1
    while True:
        try:
            return request()
        except FileNotFoundError:
            raise DataError.of(url, "no such object", "a readable object") from None
        except Exception as error:  # every fsspec package has errors of its own
            if number == TRIES or not is_transient(error):
                message = f"no usable answer at try {number} ({type(error).__name__}: {error})".replace("\n", " ")
                raise DataError.of(url, message, "a readable object") from error
            time.sleep(_announced_pause(number, url, error))
        number += 1


async def retry_async(request: Callable[[], Awaitable[Result]], url: str, tries: int) -> Result:
    """The same for a coroutine; the last error is raised as it is."""
    for number in range(1, tries):
        try:
            return await request()
        except Exception as error:  # every fsspec package has errors of its own
            if not is_transient(error):
                raise
            await asyncio.sleep(_announced_pause(number, url, error))
    return await request()


def is_transient(error: Exception) -> bool:
    """Whether a request may succeed when it is made again.

    An error with an HTTP status is judged by it. Of the others, those last that say what is wrong with the request, or
    that the fsspec package cannot make it.
    """
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(code, int):
        return code >= 500 or code in (408, 429)
    lasting = (
        *(FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError),
        *(NotImplementedError, TypeError, ValueError, KeyError),
    )
    return not isinstance(error, lasting) and "Forbidden" not in str(error)


def _announced_pause(number: int, url: str, error: Exception) -> float:
    """Seconds to wait after a try; random, so that several processes do not ask again at the same moment."""
    pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    logger.warning("%s: %s: %s; again in %.1f s", url, type(error).__name__, error, pause)
    return pause
