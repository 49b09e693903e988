"""The process and its surroundings: device, random numbers, distributed processes, atomic files, console."""

from featuregen.runtime.atomic import (
    LOCK_TIMEOUT,
    atomic_folder,
    atomic_path,
    atomic_write,
    check_writable,
    lock,
    locked,
    os_errors_as_user_errors,
    partial_path,
    sync_folder,
    unlock,
)
from featuregen.runtime.console import format_columns, log, progress
from featuregen.runtime.device import (
    ComputeSpec,
    autocast,
    configure_process,
    free_memory,
    out_of_memory,
    resolve_device,
    versions,
)
from featuregen.runtime.distributed import (
    SINGLE_PROCESS,
    DistInfo,
    connection_errors_as_user_errors,
    dist_from_env,
    init_distributed,
)
from featuregen.runtime.hdf5_guard import first_bad_vlen_string, has_oversized_local_heap
from featuregen.runtime.rng import RowDraws, RowRandom, seeded

__all__ = [
    "LOCK_TIMEOUT",
    "SINGLE_PROCESS",
    "ComputeSpec",
    "DistInfo",
    "RowDraws",
    "RowRandom",
    "atomic_folder",
    "atomic_path",
    "atomic_write",
    "autocast",
    "check_writable",
    "configure_process",
    "connection_errors_as_user_errors",
    "dist_from_env",
    "first_bad_vlen_string",
    "format_columns",
    "free_memory",
    "has_oversized_local_heap",
    "init_distributed",
    "lock",
    "locked",
    "log",
    "os_errors_as_user_errors",
    "out_of_memory",
    "partial_path",
    "progress",
    "resolve_device",
    "seeded",
    "sync_folder",
    "unlock",
    "versions",
]
