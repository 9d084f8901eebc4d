"""Main memory: free, used, and peak use of this process; processor cores."""

import os
from contextlib import suppress
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux shows a container's limits."""


def resident_bytes() -> int:
    """Return the bytes of main memory of this process and its children, without mapped files."""
    return _resident_below(os.getpid())


def peak_bytes() -> int:
    """Return this process's peak main memory in bytes, including mapped files.

    ``getrusage`` may include the memory of the process that started this one.
    """
    return _status(os.getpid())["VmHWM"]


def free_bytes() -> int | None:
    """Return the memory available without swapping, within the container's limit; None if unknown."""
    free = []
    with suppress(OSError, KeyError, ValueError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, KeyError, ValueError):  # no such file, or the word "max"
        limit, used = (int((_CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
        cached = int(parts["inactive_file"]) + int(parts["active_file"])  # files in memory, which give way
        free.append(limit - used + cached)
    return min(free) if free else None


def usable_cores() -> int:
    """Return the number of processor cores available to this process, within the container's limit; at least 1."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file, or the word "max"
        quota, period = map(int, (_CONTROL_GROUP / "cpu.max").read_text().split())
        cores = min(cores, quota // period)
    with suppress(OSError, ValueError):  # control groups of version 1
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = (int((_CONTROL_GROUP / "cpu" / name).read_text()) for name in names)
        cores = min(cores, quota // period) if quota > 0 else cores
    return max(1, cores)


def _status(process: int) -> dict[str, int]:
    """Sizes in bytes of a process, by Linux's names; empty if it has ended or there is no ``/proc``."""
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
    """Child processes of all threads of a process; threads and processes may end meanwhile."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found
