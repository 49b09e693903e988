"""Opens thousands of broken and malicious files and watches what the readers do.

    python -m reliability.fuzz [--targets dataset,checkpoint] [--inputs 5000] [--seed 0] [--out fuzz.json]

Claim: whatever is done to a valid file, opening, verifying or importing it runs no code, opens no other file, touches
little more memory than the file is large, and ends well or with one sentence and exit code 1 or 2.
Method: inputs are small valid files of every kind. They are changed where their format is known (links, types, filters,
operations of a pickle, members of an archive, nodes of JSON and YAML) and where it is not (bits, numbers, blocks,
ends). The functions behind the commands open each input in a process that may crash, hang or be stopped, with traps set
(fuzz_traps.py): Python's audit events, the kernel's notices about files that inputs point to, and peaks of memory.
Seed, target and number determine an input, so `--only dataset:17` opens one again, in this process. Lines and branches
are counted in a separate run over the first inputs.
Needs: Linux; `coverage`, unless `--without-coverage` is given.
Exit code: 1 if anything happens that must not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError, printable
from reliability.fuzz_pool import Verdict, judged, verdicts
from reliability.fuzz_targets import Target, input_of, targets
from reliability.fuzz_traps import Traps

# Whose lines are counted: a tracer makes every input several times as slow.
COVERED = 1000
_REPOSITORY = Path(__file__).parents[1]


def counted(found: Sequence[Verdict]) -> dict[str, Any]:
    """Numbers for a table, and what must not be, with the input that brought it about."""
    outcomes = Counter(verdict.outcome for verdict in found)
    sentences = {pattern_of(verdict.words) for verdict in found if verdict.outcome == "refused"}
    most = max(found, key=lambda verdict: verdict.touched)
    return {
        "inputs": len(found),
        "outcomes": dict(sorted(outcomes.items())),
        "violations": sum(verdict.bad for verdict in found),
        "sentences": len(sentences),
        "peak_kib": most.touched >> 10,
        "size_kib": max(1, most.size >> 10),
        "slowest_seconds": round(max(verdict.seconds for verdict in found), 3),
        "bad": [[verdict.number, verdict.outcome, verdict.words[:300]] for verdict in found if verdict.bad],
    }


def pattern_of(sentence: str) -> str:
    """What a sentence says, without the values it says it of."""
    printable = re.sub(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\[[^\]]*\]|[-+]?\d[\w.+,]*|/\S+", "…", sentence)
    return printable[:60]


def covered(target: Target, inputs: int, seed: int) -> dict[str, float]:
    """Shares of the lines and branches of its modules that inputs reach, in a process that counts from its start."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "data", Path(folder) / "report.json"
        words = ["--targets", target.name, "--inputs", str(min(inputs, COVERED)), "--seed", str(seed), "--here"]
        coverage = [sys.executable, "-m", "coverage"]
        run = [
            *coverage,
            "run",
            "--branch",
            "--source=featuregen",
            f"--data-file={data}",
            "-m",
            "reliability.fuzz",
            *words,
        ]
        tell = [*coverage, "json", "-q", f"--data-file={data}", "-o", str(report)]
        for command in (run, tell):
            done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"Coverage of {target.name} cannot be told: {done.stderr[-300:]}")
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    of = [files[f"featuregen/{name}"]["summary"] for name in target.modules]
    return {
        what: round(sum(each[f"covered_{what}"] for each in of) / sum(each[total] for each in of), 3)
        for what, total in (("lines", "num_statements"), ("branches", "num_branches"))
    }


def here(target: Target, numbers: Iterable[int], seed: int) -> list[Verdict]:
    """In this very process, which a crash would end."""
    # Every input changes into its own folder, which is gone afterwards.
    with contextlib.chdir(Path.cwd()), tempfile.TemporaryDirectory() as name:
        place = Path(name)
        decoys = place / "decoy"
        decoys.mkdir()
        for decoy, content in target.decoys().items():
            (decoys / decoy).write_bytes(content)
        traps = Traps(place / "input", decoys)
        return [judged(target, number, input_of(target, seed, number), place, traps) for number in numbers]


def measured(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    found = list(verdicts(target, range(options.inputs), options.seed, options.processes))
    record = counted(found) | {"seconds": round(time.perf_counter() - started, 1)}
    if not options.without_coverage:
        record |= {"modules": list(target.modules), "covered": covered(target, options.inputs, options.seed)}
    return record


def line(name: str, record: dict[str, Any]) -> str:
    outcomes, share = record["outcomes"], record.get("covered", {})
    reached = ", ".join(f"{share[what]:.0%} of {what}" for what in share)
    return (
        f"{name:<11}{record['inputs']:>7,} inputs  {outcomes.get('accepted', 0):>6,} accepted  "
        f"{outcomes.get('refused', 0):>6,} refused in {record['sentences']:>3} sentences  "
        f"{record['violations']:>4,} violations  {record['peak_kib']:>7,} KiB at most  {reached}"
    )


def fuzz(options: argparse.Namespace) -> int:
    all_targets = targets()
    names = options.targets.split(",") if options.targets else list(all_targets)
    if odd := [name for name in names if name not in all_targets]:
        raise UserError(f"There is no target '{odd[0]}'; {did_you_mean(odd[0], all_targets)}")
    if options.inputs < 1:
        raise UserError(f"--inputs {options.inputs} is no number of inputs; give 1 or more.")
    if options.here:
        for name in names:
            here(all_targets[name], range(options.inputs), options.seed)
        return 0
    record: dict[str, Any] = {"seed": options.seed, "hardware": hardware(torch.device("cpu"), ()), "targets": {}}
    for name in names:
        record["targets"][name] = found = measured(all_targets[name], options)
        print(line(name, found), flush=True)
        for number, outcome, words in found["bad"][:20]:
            print(printable(f"  {name}:{number} {outcome}: {words}"))
        save(options.out, record)
    return int(any(found["violations"] for found in record["targets"].values()))


def again(only: str, seed: int) -> int:
    name, _, number = only.partition(":")
    if name not in targets() or not number.isdecimal():
        raise UserError(f"--only {only} names no input; give it as dataset:17.")
    (verdict,) = here(targets()[name], [int(number)], seed)
    print(printable(f"{only} {verdict.outcome}: {verdict.words}"))
    return int(verdict.bad)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", default="", help="by default all of them")
    parser.add_argument("--inputs", type=int, default=5000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", help="one input, such as dataset:17")
    parser.add_argument("--without-coverage", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON with every count, written after every target")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    # The user's own list of what was made on this machine is not read, nor added to.
    with tempfile.TemporaryDirectory(prefix="fuzz-state-") as state, patch.dict(os.environ, XDG_STATE_HOME=state):
        return exit_code(lambda: again(options.only, options.seed) if options.only else fuzz(options))


if __name__ == "__main__":
    sys.exit(main())
