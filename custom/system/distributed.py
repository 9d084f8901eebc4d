"""Helpers for distributed training that also work in a single process."""

from typing import Any

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """Return the rank of this process, 0 if it is the only one."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _several() else 1


def any_rank(flag: bool, group: "dist.ProcessGroup | None" = None) -> bool:
    """Whether ``flag`` is set on any rank; every rank must call this, and all get the same result."""
    if not _several():
        return flag
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    return bool(max_over_ranks(torch.tensor([int(flag)], device=device), group).item())


def max_over_ranks(values: torch.Tensor, group: "dist.ProcessGroup | None" = None) -> torch.Tensor:
    """Return the largest of all ranks' values, element by element, without waiting for the GPU.

    Args:
        values: this rank's, of the same shape on every rank; modified in place.
    """
    if _several():
        dist.all_reduce(values, dist.ReduceOp.MAX, group=group)
    return values


def gather(value: Any) -> list[Any]:
    """Return ``value`` of every rank, in order; every rank must call this."""
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
    """Broadcast the buffers of rank 0's network to all ranks; every rank must call this."""
    if _several():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def control_group() -> "dist.ProcessGroup | None":
    """Return a process group on the CPU, which does not wait for the GPUs; every rank must call this, once."""
    return dist.new_group(backend="gloo") if _several() and dist.get_backend() == "nccl" else None


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network inside ``DistributedDataParallel``, whose keys have no prefix."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
