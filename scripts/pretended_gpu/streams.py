"""Streams and events, of which all work is done at once."""

from contextlib import nullcontext
from typing import Any

from .record import Record
from .tensor import CUDA


def streams(record: Record) -> dict[str, Any]:
    """Return what replaces the names of ``torch.cuda``."""

    class Stream:
        device = CUDA

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def synchronize(self) -> None:
            record.wait(type(self).__name__.lower())

        def query(self) -> bool:
            return True

        def wait(self, *_: Any) -> None:
            """Streams wait, the host does not."""

        wait_stream = wait_event = record_event = wait

    class Event(Stream):
        record = Stream.wait

    stream = Stream()
    return {
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda *_: stream,
        "default_stream": lambda *_: stream,
        "stream": nullcontext,
        "device": nullcontext,
        "set_stream": lambda *_: None,
    }
