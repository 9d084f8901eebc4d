"""One process or several: who writes, and how all of them decide the same."""

from typing import Any

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """The number of this process among those of one training, 0 where it is alone."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def any_rank(flag: bool, group: "dist.ProcessGroup | None" = None) -> bool:
    """Whether ``flag`` is set on any rank; every rank has to ask, and all get the same answer.

    Args:
        flag: of this rank.
        group: see :func:`control_group`.
    """
    if not _several():
        return flag
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    flags = torch.tensor([int(flag)], device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=group)
    return bool(flags.item())


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in order, on every rank; every rank has to call this."""
    if not _several():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def shared_indices(count: int, rank: int, world_size: int) -> list[int]:
    """The items of one rank, out of ``count`` that are shared by all.

    Where they do not divide evenly, the last ranks begin anew with the first items: all ranks get equally many, so that
    none waits for another in what they do together. Who adds up the results has to count an item once.
    """
    rounds = -(-count // world_size)
    return [(rank + k * world_size) % count for k in range(rounds)]


def share_buffers(network: torch.nn.Module) -> None:
    """Give every rank the first one's buffers of a network; every rank has to call this."""
    if _several():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def control_group() -> "dist.ProcessGroup | None":
    """Channel for decisions that does not wait for the GPUs' work; every rank has to call this, once."""
    return dist.new_group(backend="gloo") if _several() and dist.get_backend() == "nccl" else None


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself, whose keys go into files, without what spreads it over processes."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
