"""Worker processes: they end with their parent, and share its cores."""

import multiprocessing
import os
import signal
import threading

import torch


def serve_parent(sharing: int = 1) -> None:
    """Initialise a worker process: one thread, no reaction to Ctrl-C, and an end when the parent is killed.

    Args:
        sharing: number of such workers, which divide cores and memory among them, as the processes of a ``torchrun``
            do, by which :func:`custom.ops.betti_counts.affordable_processes` counts.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what is still finished
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(local_processes() * sharing)


def local_processes() -> int:
    """Return the number of processes that ``torchrun`` started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def end_with_parent() -> None:
    """Exit when the parent process is killed, instead of waiting for work forever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
