"""C kernels that ship with the package, compiled once per machine by the machine's own compiler."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from featuregen.runtime import log

# Not -ffast-math: linked into a library, it makes the whole process flush small numbers to zero.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


@functools.cache
def load_kernels(source: Path) -> ctypes.CDLL | None:
    """The compiled kernels; None, after a note in the log, where this machine cannot compile them."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log("note: no C compiler here, so convolutions use torch, which is slower; install gcc")
        return None
    try:
        return ctypes.CDLL(str(_compile(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        log(f"note: {compiler} cannot compile {source.name}, so convolutions use torch: {reason.strip()}")
        return None


def _compile(source: Path, compiler: str) -> Path:
    key = hashlib.sha256(b"\0".join([source.read_bytes(), compiler.encode(), " ".join(_FLAGS).encode(), _processor()]))
    library = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        # Compiled in a temporary folder and renamed, since several processes may do so at once.
        with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
            compiled = Path(temporary) / library.name
            command = [compiler, *_FLAGS, str(source), "-o", str(compiled)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            compiled.replace(library)
    return library


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "featuregen"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> bytes:
    """The processor that -march=native means: machines with different ones may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}".encode()
    lines = cpuinfo.read_bytes().splitlines()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))
