"""Streams and events, of which all work is done at once."""

from contextlib import nullcontext
from typing import Any

from .record import Record
from .tensor import CUDA


def streams(record: Record) -> dict[str, Any]:
    """Return what replaces the names of ``torch.cuda``."""

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def record(self, *_: Any) -> None:
            pass

        def synchronize(self) -> None:
            record.wait("event")

        def query(self) -> bool:
            return True

        def wait(self, *_: Any) -> None:
            """Streams wait, the host does not."""

    class Stream:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.device = CUDA

        def synchronize(self) -> None:
            record.wait("stream")

        def query(self) -> bool:
            return True

        def wait_stream(self, *_: Any) -> None:
            """Streams wait, the host does not."""

        wait_event = wait_stream

    stream = Stream()
    both = {name: lambda *_: stream for name in ("current_stream", "default_stream")}
    return {
        "Stream": Stream,
        "Event": Event,
        **both,
        "stream": nullcontext,
        "device": nullcontext,
        "set_stream": lambda *_: None,
    }
