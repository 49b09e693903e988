"""The processes of one command: torchrun starts them, and says in the environment who is who."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from featuregen.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# The others wait while the first one trains a source model.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class DistInfo:
    """This process among `count`; on its machine it is number `local` of `beside`. Without torchrun, the only one.

    All but `number` and `part` are calls that every process makes at the same point, or none returns.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows_of(self, rows: int) -> slice:
        """This process's share of so many rows."""
        return slice(self.rank * rows // self.world_size, (self.rank + 1) * rows // self.world_size)

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            # On the CPU, since the barrier of torch would take a GPU's time for as long as it lasts.
            with _connection_errors_as_user_errors():
                distributed.all_reduce(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process, then all others, which find what it has made."""
        if not self.is_main:
            self.barrier()
        yield
        # Not if the first one fails: torchrun then ends the others.
        if self.is_main:
            self.barrier()

    def broadcast_object(self, value: Any = None) -> Any:
        """What the first process says, in all of them: plain containers, as JSON has them."""
        if self.world_size == 1:
            return value
        text = json.dumps(value).encode() if self.is_main else b""
        size = torch.tensor([len(text)])
        with _connection_errors_as_user_errors():
            distributed.broadcast(size, 0)
            letters = torch.tensor(list(text) or [0] * int(size), dtype=torch.uint8)
            distributed.broadcast(letters, 0)
        return json.loads(bytes(letters.tolist()))

    @torch.no_grad()
    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
        """Over the processes, in place and in one message."""
        if self.world_size == 1:
            return
        own = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in own])
        with _connection_errors_as_user_errors():
            distributed.all_reduce(flat)
        flat /= self.world_size
        for tensor, mean in zip(own, torch.split(flat, [tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Give every process those of the first."""
        for tensor in tensors if self.world_size > 1 else ():
            plain = tensor.contiguous()
            with _connection_errors_as_user_errors():
                distributed.broadcast(plain, 0)
            tensor.copy_(plain)


@contextmanager
def _connection_errors_as_user_errors() -> Iterator[None]:
    """torch tells of a process that has ended as of a broken connection."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The processes cannot reach each other, as when one has ended ({reason}); what is finished is kept, and "
            "the same command goes on from there."
        ) from None


SINGLE_PROCESS = DistInfo()


def dist_from_env() -> DistInfo:
    """What torchrun says in the environment of this process."""
    told = [os.environ.get(name) for name in _NAMES]
    # Some clusters set a few of them for every job.
    if None in told:
        return SINGLE_PROCESS
    try:
        number, count, local = (int(text or "") for text in told)
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    except ValueError:
        count = 0
    if not (count > 0 and 0 <= number < count and 0 <= local < beside <= count):
        said = ", ".join(f"{name}={text}" for name, text in zip(_NAMES, told, strict=True))
        raise UserError(f"The environment says {said}, which torchrun never does; unset them, or start with torchrun.")
    return DistInfo(number, count, local, beside)


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistInfo]:
    """The processes that torchrun has started, able to talk to each other, each with its own GPU if there are any."""
    dist = dist_from_env()
    if dist.world_size == 1:
        yield dist
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        _take_gpu(dist, device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield dist
    finally:
        distributed.destroy_process_group()


def _take_gpu(dist: DistInfo, device: str | None) -> None:
    """From here on, `cuda` is this process's own."""
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
    """How many threads this process should take where nobody has said so; 0 leaves that to torch."""
    dist = dist_from_env()
    # torchrun itself sets it to 1, whatever the machine has.
    if dist.local_world_size == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return 0
    return max(1, len(os.sched_getaffinity(0)) // dist.local_world_size if hasattr(os, "sched_getaffinity") else 1)
