"""The processes of one command that torchrun starts: who is who, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from featuregen.errors import UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_CPU = torch.device("cpu")
# The other ranks wait while rank 0 trains a source model.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class DistInfo:
    """The rank of this process among `world_size`, and its local rank among those on the same machine.

    Without torchrun there is one process. `barrier`, `main_first`, `broadcast_object` and `all_reduce_mean` are
    collective: every rank calls them at the same point.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows_of(self, rows: int) -> slice:
        """The rows of a batch that this rank takes."""
        return slice(self.rank * rows // self.world_size, (self.rank + 1) * rows // self.world_size)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            # On the CPU: torch's own barrier would keep a GPU busy for as long as it lasts.
            with connection_errors_as_user_errors():
                distributed.all_reduce(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in rank 0, then in all others, which find what rank 0 has written."""
        if not self.is_main:
            self.barrier()
        yield
        # Not if rank 0 fails: torchrun then ends the others.
        if self.is_main:
            self.barrier()

    def broadcast_object(self, value: Any = None) -> Any:
        """The value of rank 0, in every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        with connection_errors_as_user_errors():
            distributed.broadcast_object_list(values, 0, device=_CPU)
        return values[0]

    @torch.no_grad()
    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its mean over the ranks, in one message."""
        if self.world_size == 1 or not (reduced := list(tensors)):
            return
        flat = torch.cat([tensor.flatten() for tensor in reduced])
        with connection_errors_as_user_errors():
            distributed.all_reduce(flat)
        flat /= self.world_size
        for tensor, mean in zip(reduced, torch.split(flat, [tensor.numel() for tensor in reduced]), strict=True):
            tensor.copy_(mean.view(tensor.shape))


@contextmanager
def connection_errors_as_user_errors() -> Iterator[None]:
    """Report a lost connection, which is how torch reports a rank that has ended, in one sentence."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no exception of its own, and a backward pass may also fail for another reason.
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The processes cannot reach each other, as when one has ended ({reason}); what is finished is kept, rerun "
            "the same command to resume."
        ) from None


SINGLE_PROCESS = DistInfo()


def dist_from_env() -> DistInfo:
    """What torchrun says in the environment of this process."""
    values = [os.environ.get(name) for name in _VARIABLES]
    # Some clusters set a few of them for every job.
    if None in values:
        return SINGLE_PROCESS
    try:
        rank, world_size, local_rank = (int(value or "") for value in values)
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    except ValueError:
        world_size = 0
    if not (world_size > 0 and 0 <= rank < world_size and 0 <= local_rank < local_world_size <= world_size):
        settings = ", ".join(f"{name}={value}" for name, value in zip(_VARIABLES, values, strict=True))
        raise UserError(
            f"The environment says {settings}, which torchrun never does; unset them, or start with torchrun."
        )
    return DistInfo(rank, world_size, local_rank, local_world_size)


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistInfo]:
    """Connect the processes that torchrun has started, each with a GPU of its own if there are any."""
    dist = dist_from_env()
    if dist.world_size == 1:
        yield dist
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _set_gpu(dist, device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    try:
        yield dist
    finally:
        distributed.destroy_process_group()


def _set_gpu(dist: DistInfo, device: str | None) -> None:
    """Make `cuda` mean the GPU of this local rank."""
    if device and ":" in device:
        raise UserError(
            f"{device} is one GPU, and torchrun gives each process its own; use --device cuda, or leave it out."
        )
    if dist.local_world_size > torch.cuda.device_count():
        raise UserError(
            f"torchrun started {dist.local_world_size} processes on a machine with {torch.cuda.device_count()} GPU(s); "
            "start as many as there are GPUs, or use --device cpu."
        )
    torch.cuda.set_device(dist.local_rank)


def threads_per_process() -> int:
    """An equal share of the CPUs for each rank of a machine; 0, torch decides, if alone or if the user has."""
    dist = dist_from_env()
    # torchrun itself sets it to 1, whatever the machine has.
    if dist.local_world_size == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return 0
    return max(1, len(os.sched_getaffinity(0)) // dist.local_world_size if hasattr(os, "sched_getaffinity") else 1)
