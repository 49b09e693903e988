"""Open crafted checkpoints by function and by command, under limits on memory and processor time.

    python -m reliability.open_crafted [--every 1] [--commands 5]

Claim: whatever a checkpoint asks for, it is read or refused in one sentence with exit code 2, within seconds and with
little memory. Method: every so many of the cases of crafted_pickles.py is opened in a temporary folder, by the function
that reads checkpoints, as the state of a stopped training, and by so many commands in turn. Prints a JSON object; exit
code 1 if anything breaks the claim. Needs: Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import typer.main

from featuregen.cli import app
from featuregen.errors import UserError
from featuregen.runtime.torch_files import read_torch_file
from reliability.crafted_pickles import checkpoints
from reliability.fuzz_files import resume
from reliability.fuzz_traps import Memory

# Bytes beyond what the process had, seconds of the processor for one case, and characters of a sentence.
MEMORY, SECONDS, LONGEST = 300 << 20, 20, 1000
_TINY = """
model: {architecture: convnet, width: 8}
runtime: {device: cpu, precision: fp32, convolution: direct}
sources: {standard: {epochs: 1}, robust: {epochs: 1, attack: {norm: l2, eps: 0.5, steps: 1}}}
synthesis: {det: {steps: 1, norm: l2, eps: 0.5, rows: 20}}
evaluation: {seeds: 1, l2: [0.5], headline: 0.5, linf: [], steps: 1}
"""
# A case lies at each of these paths.
_CHECKPOINT, _STATE, _RELEASED = Path("a.pt"), Path("a.halfway"), Path("release/CIFAR_ims")
_OWN = ("--config", "tiny.yaml", "--out")
COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "a.pt"),
    "evaluate": ("evaluate", "a.pt", *_OWN, "out"),
    "import": ("import", "release", "--kind", "det", "--data", "digits", "--out", "imported.h5"),
    "--source": ("make-dataset", "det", "--source", "a.pt", *_OWN, "made.h5"),
    "--standard-from": ("reproduce", "--standard-from", "a.pt", *_OWN, "out"),
}


def open_all(cases: dict[str, bytes], commands: int) -> Iterator[tuple[str, str, str]]:
    """The name of each case, what opened it, and what was wrong with that."""
    Path("release").mkdir()
    Path("tiny.yaml").write_text(_TINY, encoding="utf-8")
    torch.save(torch.zeros(3, dtype=torch.int64), Path("release/CIFAR_lab"))
    turns = cycle(COMMANDS)
    for case, content in cases.items():
        for path in (_CHECKPOINT, _STATE, _RELEASED):
            path.write_bytes(content)
        readers: dict[str, Callable[[], str]] = {"read_torch_file": by_function, "resuming": by_training}
        readers |= {name: partial(by_command, COMMANDS[name]) for name in islice(turns, commands)}
        for name, read in readers.items():
            yield case, name, _watched(read)


def _watched(read: Callable[[], str]) -> str:
    memory, start = Memory(), time.process_time()
    try:
        wrong = read()
    except Exception as error:
        wrong = f"traceback of {error!r}"[:LONGEST]
    seconds, used = time.process_time() - start, memory.touched()
    slow = f" {seconds:.0f} s" if seconds > SECONDS else ""
    return wrong + slow + (f" {used >> 20} MiB" if used > MEMORY else "")


def by_function() -> str:
    with contextlib.suppress(UserError):
        read_torch_file(_CHECKPOINT)
    return ""


def by_training() -> str:
    # A damaged state may be set aside instead.
    with contextlib.suppress(UserError):
        resume(Path())
    return ""


def by_command(words: Sequence[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _command().main(list(words), standalone_mode=False)
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
    refused = code == 2 and not out.getvalue() and len(lines) == 1 and lines[0].startswith("error: ")
    if refused and len(lines[0]) < LONGEST and lines[0].isprintable():
        return ""
    return f"exit code {code} with {lines!r}"[:LONGEST]


@cache
def _command() -> Any:
    # Made once, while typer's own runner makes it for every run.
    return typer.main.get_command(app)


def _limit(cases: int) -> None:
    """What does not end is ended by the system, and not by whoever waits for it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60 + 5 * cases, 60 + 5 * cases))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="Open every so many cases.")
    parser.add_argument("--commands", type=int, default=len(COMMANDS), help="Commands that open each case, in turn.")
    parsed = parser.parse_args(arguments)
    cases = dict(list(checkpoints().items())[:: parsed.every])
    _limit(len(cases))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = list(open_all(cases, parsed.commands))
    bad = [line for line in found if line[2]]
    print(json.dumps({"cases": len(cases), "runs": len(found), "bad": bad}, indent=2))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
