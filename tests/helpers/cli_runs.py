"""Commands run in this process, and small files that several tests share and never change."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from featuregen.cli import app

torch.set_num_threads(1)

TINY = """
model: {architecture: convnet, width: 8}
runtime: {device: cpu, precision: fp32, convolution: direct}
sources:
  standard: {epochs: 2, batch_size: 64, lr: 0.1}
  robust: {epochs: 2, batch_size: 64, lr: 0.1, attack: {norm: l2, eps: 0.5, steps: 1}}
synthesis:
  robust: &features {steps: 3, step_size: 0.3, batch_size: 64, rows: 40}
  nonrobust: *features
  robust-noise: *features
  nonrobust-noise: *features
  rand: &classes {steps: 3, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 64, rows: 40}
  det: *classes
fresh:
  robust: &fresh {epochs: 1, batch_size: 20, lr: 0.1}
  rand: *fresh
  det: *fresh
evaluation: {seeds: 1, l2: [0.5], headline: 0.5, linf: [0.1], steps: 2}
"""

_ROOM = tempfile.TemporaryDirectory(prefix="featuregen-tests-")
ROOM = Path(_ROOM.name)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: str | Path) -> Ran:
    """Run a command; an exception is raised, since no user should see a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


def done(*words: str | Path) -> Ran:
    ran = run(*words)
    assert ran.code == 0, ran.err
    return ran


def refused(*words: str | Path) -> str:
    """The one line of the error."""
    ran = run(*words)
    assert (ran.code, ran.out) == (2, ""), ran
    lines = [line for line in ran.err.splitlines() if not line.startswith(("note: ", "training "))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) > len("error: "), ran.err
    return lines[0]


@cache
def tiny() -> Path:
    path = ROOM / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def make(kind: str, out: Path, *words: str | Path) -> Ran:
    return done("make-dataset", kind, "--config", tiny(), "--out", out, *words)


@cache
def dataset(kind: str) -> Path:
    path = ROOM / f"{kind}.h5"
    make(kind, path)
    return path


@cache
def model(which: str) -> Path:
    """The source model of the datasets here."""
    path = ROOM / f"{which}.safetensors"
    done("train", f"--{which}", "--config", tiny(), "--out", path)
    return path


def info(path: Path) -> Any:
    return done("info", path, "--json").json()


def trace(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder with what changes when one is rewritten."""
    stats = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
