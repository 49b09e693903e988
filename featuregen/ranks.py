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
class Ranks:
    """This process among `count`; on its machine it is number `local` of `beside`. Without torchrun, the only one.

    All but `number` and `part` are calls that every process makes at the same point, or none returns.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1

    @property
    def first(self) -> bool:
        return self.number == 0

    def part(self, rows: int) -> slice:
        """This process's share of so many rows."""
        return slice(self.number * rows // self.count, (self.number + 1) * rows // self.count)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            # On the CPU, since the barrier of torch would take a GPU's time for as long as it lasts.
            with _reaching_all():
                distributed.all_reduce(torch.zeros(1))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process, then all others, which find what it has made."""
        if not self.first:
            self.wait()
        yield
        # Not if the first one fails: torchrun then ends the others.
        if self.first:
            self.wait()

    def told(self, value: Any = None) -> Any:
        """What the first process says, in all of them: plain containers, as JSON has them."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor([len(text)])
        with _reaching_all():
            distributed.broadcast(size, 0)
            letters = torch.tensor(list(text) or [0] * int(size), dtype=torch.uint8)
            distributed.broadcast(letters, 0)
        return json.loads(bytes(letters.tolist()))

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Over the processes, in place and in one message."""
        if self.count == 1:
            return
        own = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in own])
        with _reaching_all():
            distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(own, torch.split(flat, [tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give every process those of the first."""
        for tensor in tensors if self.count > 1 else ():
            plain = tensor.contiguous()
            with _reaching_all():
                distributed.broadcast(plain, 0)
            tensor.copy_(plain)


@contextmanager
def _reaching_all() -> Iterator[None]:
    """torch tells of a process that has ended as of a broken connection."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The processes cannot reach each other, as when one has ended ({reason}); what is finished is kept, and "
            "the same command goes on from there."
        ) from None


ALONE = Ranks()


def launched() -> Ranks:
    """What torchrun says in the environment of this process."""
    told = [os.environ.get(name) for name in _NAMES]
    # Some clusters set a few of them for every job.
    if None in told:
        return ALONE
    try:
        number, count, local = (int(text or "") for text in told)
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    except ValueError:
        count = 0
    if not (count > 0 and 0 <= number < count and 0 <= local < beside <= count):
        said = ", ".join(f"{name}={text}" for name, text in zip(_NAMES, told, strict=True))
        raise UserError(f"The environment says {said}, which torchrun never does; unset them, or start with torchrun.")
    return Ranks(number, count, local, beside)


@contextmanager
def together(device: str | None = None) -> Iterator[Ranks]:
    """The processes that torchrun has started, able to talk to each other, each with its own GPU if there are any."""
    ranks = launched()
    if ranks.count == 1:
        yield ranks
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        _take_gpu(ranks, device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def _take_gpu(ranks: Ranks, device: str | None) -> None:
    """From here on, `cuda` is this process's own."""
    if device and ":" in device:
        raise UserError(
            f"{device} is one GPU, and torchrun gives each process its own; use --device cuda, or leave it out."
        )
    if ranks.beside > torch.cuda.device_count():
        raise UserError(
            f"torchrun started {ranks.beside} processes on a machine with {torch.cuda.device_count()} GPU(s); start as "
            "many as there are GPUs, or use --device cpu."
        )
    torch.cuda.set_device(ranks.local)


def threads_each() -> int:
    """How many threads this process should take where nobody has said so; 0 leaves that to torch."""
    ranks = launched()
    # torchrun itself sets it to 1, whatever the machine has.
    if ranks.beside == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return 0
    return max(1, len(os.sched_getaffinity(0)) // ranks.beside if hasattr(os, "sched_getaffinity") else 1)
