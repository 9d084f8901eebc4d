"""What happened on the pretended device, and the time that it would take."""

import sys
import weakref
from collections import Counter
from dataclasses import dataclass
from types import FrameType

import torch

LEFT_OUT = ("scripts/pretended_gpu/", "/torch/")
"""Parts of the paths of files that no wait is attributed to."""


@dataclass(frozen=True)
class Card:
    """What a GPU reaches in practice: FLOP/s of matrix products, bytes/s of memory, and seconds of the least kernel."""

    flops: float
    bandwidth: float
    launch: float = 3e-6


H100 = Card(400e12, 2.7e12)


@dataclass(frozen=True)
class Kernel:
    """An operation that ran on the device, the FLOPs of it and the bytes that it read and wrote."""

    name: str
    flops: int
    size: int

    def seconds(self, card: Card) -> float:
        """Return the longest of arithmetic, memory traffic and launch."""
        return max(self.flops / card.flops, self.size / card.bandwidth, card.launch)


class Record:
    """What happened since ``reset()``.

    Attributes:
        waits: how often the host waited for the device, by cause and line of code.
        copies: numbers of copies, by kind: ``"H2D, pageable, waits"``.
        copied_bytes: bytes by direction, ``"H2D"`` (to the device) and ``"D2H"``.
        kernels: the operations, in order.
        now: bytes of all tensors on the device.
        peak: most of them since ``reset_peak()``.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._storages: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all but the memory."""
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.copied_bytes: Counter[str] = Counter()
        self.kernels: list[Kernel] = []

    def reset_peak(self) -> None:
        """Let the peak begin with the tensors of now."""
        self.peak = self.now

    @property
    def flops(self) -> int:
        """FLOPs of all kernels."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def traffic(self) -> int:
        """Bytes read and written by all kernels."""
        return sum(kernel.size for kernel in self.kernels)

    def seconds(self, card: Card = H100) -> float:
        """Return the time of all kernels by the roofline of a card, one after another."""
        return sum(kernel.seconds(card) for kernel in self.kernels)

    def wait(self, cause: str) -> None:
        """Note that the host waits."""
        self.waits[f"{cause}: {caller()}"] += 1

    def keep(self, tensor: torch.Tensor) -> None:
        """Count the memory of a tensor for as long as it lives."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


class _State:
    record = Record()
    inner = torch.device("cpu")
    """Where the numbers are: on the CPU, or on the meta device, that is nowhere."""


STATE = _State()


def caller() -> str:
    """Return the innermost lines of code, without torch's and this package's, up to the first of the project."""
    frame: FrameType | None = sys._getframe(1)
    found: list[str] = []
    while frame is not None and len(found) < 3:
        name = frame.f_code.co_filename
        if not any(part in name for part in LEFT_OUT):
            found.append(f"{'/'.join(name.split('/')[-3:])}:{frame.f_lineno}")
            if "site-packages" not in name:
                break
        frame = frame.f_back
    return " < ".join(found)
