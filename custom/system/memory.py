"""Main memory: what is free, what this process takes, and the most that it took."""

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def resident_bytes() -> int:
    """Bytes of main memory of this process and all below it, but for mapped files, which the system can drop.

    Where there is no ``/proc``: the most this process has had, files included.
    """
    return _resident_below(os.getpid()) or _peak_by_usage()


def peak_bytes() -> int:
    """The most main memory in bytes that this process had at a time, mapped files included.

    The system's ``getrusage`` says more than that where the process was started by a larger one, whose memory it counts
    up to the moment at which this program begins; it is asked only where there is no ``/proc``.
    """
    return _status(os.getpid()).get("VmHWM") or _peak_by_usage()


def free_bytes() -> int | None:
    """Memory to be had without swapping, within the container's limit; None where the system does not tell."""
    free = []
    with suppress(OSError, KeyError, ValueError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):  # no such file, or the word "max"
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        free.append(int(limit) - int(used))
    return min(free) if free else None


def usable_cores() -> int:
    """Cores of the processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _peak_by_usage() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(process: int) -> dict[str, int]:
    """Sizes in bytes of a process, by Linux's names for them; none where it has ended or there is no ``/proc``."""
    try:
        lines = [line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def _resident_below(process: int) -> int:
    status = _status(process)
    own = status.get("RssAnon", 0) + status.get("RssShmem", 0)
    return own + sum(_resident_below(child) for child in _children(process))


def _children(process: int) -> list[int]:
    """Processes that the threads of a process have started; threads and processes may end meanwhile."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found
