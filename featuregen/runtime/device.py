"""The device of a run, its precision and free memory, and the versions of the software."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from featuregen import __version__
from featuregen.errors import UserError
from featuregen.runtime.distributed import threads_per_process

# More threads than this, or than four a core, help nothing and take gigabytes.
_MANY_THREADS = 128
# From <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ComputeSpec:
    """Device and numerics of a computation, fixed before it starts."""

    device: torch.device = _CPU
    precision: str = "fp32"
    convolution: str = "direct"
    compiled: bool = False

    @property
    def numerics(self) -> dict[str, str]:
        """What decides the bits of a result, as files record it."""
        compiled = {"compiled": "yes"} if self.compiled else {}
        return {"precision": self.precision, "convolution": self.convolution, **compiled}

    @classmethod
    def from_numerics(cls, device: torch.device, numerics: Mapping[str, str]) -> ComputeSpec:
        """The inverse of `numerics`."""
        return cls(device, numerics["precision"], numerics["convolution"], numerics.get("compiled") == "yes")

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
    """Make the C library keep freed memory (glibc only).

    By default it returns every large tensor to the system, which clears the pages of the next one. On a CPU that takes
    as long as the arithmetic.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def configure_process(threads: int) -> None:
    """Set up memory and threads of this process before it computes.

    With 0 threads torch decides; processes that torchrun started on one machine get equal shares of its CPUs.
    """
    most = max(_MANY_THREADS, 4 * (os.cpu_count() or 1))
    if threads > most:
        raise UserError(f"runtime.threads is {threads}; this machine takes at most {most}. 0 leaves it to torch.")
    tune_malloc()
    if threads := threads or threads_per_process():
        torch.set_num_threads(threads)


def free_memory(device: torch.device) -> int:
    """Free bytes of the device; on a CPU, no more than the limit of the container leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        limits += [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if "MemAvailable" in line]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        limits.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(limits)


def versions(compute: ComputeSpec) -> dict[str, str]:
    """Software, device and numerics, for the record of a file."""
    packages = {"featuregen": __version__} | {name: metadata.version(name) for name in ("torch", "numpy", "h5py")}
    kind = compute.device.type
    name = torch.cuda.get_device_name(compute.device) if kind == "cuda" else platform.machine()
    record = {"python": platform.python_version(), "device": f"{kind} ({name})", **compute.numerics}
    return {**packages, **record, "threads": str(torch.get_num_threads())}
