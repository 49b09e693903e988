"""The device a run computes on, its precision and memory, and the versions of what computed."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from featuregen import __version__
from featuregen.errors import UserError
from featuregen.runtime.distributed import threads_per_process

# tqdm's own lock also starts a process to track it, which no thread or process here needs.
tqdm.set_lock(threading.RLock())


# Numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ComputeSpec:
    """Where work runs and with what arithmetic, settled before it starts."""

    device: torch.device = _CPU
    precision: str = "fp32"
    convolution: str = "direct"
    compiled: bool = False

    @property
    def arithmetic(self) -> dict[str, str]:
        """What decides the bits of a result."""
        compiled = {"compiled": "yes"} if self.compiled else {}
        return {"precision": self.precision, "convolution": self.convolution, **compiled}

    @classmethod
    def computing(cls, device: torch.device, arithmetic: Mapping[str, str]) -> ComputeSpec:
        """The machine whose `arithmetic` this is."""
        compiled = arithmetic.get("compiled") == "yes"
        return cls(device, arithmetic["precision"], arithmetic["convolution"], compiled)

    @property
    def name(self) -> str:
        return f"{self.precision} {self.convolution}{' compiled' if self.compiled else ''}"


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"'{name}' is no device; use auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}' was asked for, but torch finds no CUDA device here; use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device '{name}' does not exist; this machine has {torch.cuda.device_count()} CUDA device(s).")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}' is not supported; use auto, cpu or cuda.")
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def tune_malloc() -> None:
    """Have the C library keep freed memory, where it can (glibc).

    By default it hands every large tensor back to the system and has the next one's pages cleared anew, which on a
    CPU takes as long as the arithmetic on them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def configure_process(threads: int) -> None:
    """Memory and threads of this process, before anything is computed in it.

    0 leaves torch's own count, and gives processes that torchrun started beside each other equal parts of the CPU.
    """
    tune_malloc()
    if threads := threads or threads_per_process():
        torch.set_num_threads(threads)


def free_memory(device: torch.device) -> int:
    """Bytes that work may still take, the limit of a container included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free += [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if "MemAvailable" in line]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(free)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, or Python found no room."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in words)


def versions(compute: ComputeSpec) -> dict[str, str]:
    """What made a file, for its record."""
    packages = {"featuregen": __version__} | {name: metadata.version(name) for name in ("torch", "numpy", "h5py")}
    kind = compute.device.type
    name = torch.cuda.get_device_name(compute.device) if kind == "cuda" else platform.machine()
    record = {"python": platform.python_version(), "device": f"{kind} ({name})", **compute.arithmetic}
    return {**packages, **record, "threads": str(torch.get_num_threads())}
