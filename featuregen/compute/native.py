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
    """The compiled kernels; nothing, and a word about it, where this machine cannot compile them."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log("note: no C compiler here, so convolutions run through torch alone, more slowly; install gcc")
        return None
    try:
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log(f"note: {compiler} cannot compile {source.name}, so convolutions run through torch alone: {said.strip()}")
        return None


def _compiled(source: Path, compiler: str) -> Path:
    key = hashlib.sha256(b"\0".join([source.read_bytes(), compiler.encode(), " ".join(_FLAGS).encode(), _processor()]))
    library = _folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        # Compiled aside and renamed, since several processes may do so at once.
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            made = Path(aside) / library.name
            command = [compiler, *_FLAGS, str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            made.replace(library)
    return library


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "featuregen"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> bytes:
    """What -march=native stands for: a home folder may be shared by unlike machines."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}".encode()
    lines = cpuinfo.read_bytes().splitlines()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))
