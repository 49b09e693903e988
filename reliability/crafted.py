"""Gives every command crafted files, odd paths, odd options and accidents, and watches what it does.

    python -m reliability.crafted [--classes records,options] [--runs 5000] [--seed 0] [--processes 1]
                                  [--package FOLDER] [--only NAME] [--out crafted.json]

Claim: whatever file, path or option a command is given, and whatever happens to it, it ends in time and in bounded
memory, with exit code 0, or with 1 or 2 and one sentence; no control characters of others reach the terminal or a page;
no file outside the named outputs is changed, no link is followed, and no forged result is shown as measured.
Method: cases are made by hand (the rows of a review among them) and drawn from grammars of valid structures in which
one rule is broken, with the digests recomputed. Every case runs its command in a fresh folder with files of somebody
else beside it, in a process forked from one that has imported everything, or in a Python of its own where that
matters. `--package` names the checkout whose featuregen is run, so that two states of the code face the same cases.
Started again with the same `--out`, it goes on where it stopped.
Needs: Linux; for cases of another user, root.
Exit code: 1 if anything happens that must not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError, printable
from reliability import (
    crafted_accidents,
    crafted_base_sets,
    crafted_checkpoints,
    crafted_files,
    crafted_folders,
    crafted_hdf5,
    crafted_kept,
    crafted_models,
    crafted_options,
    crafted_records,
    crafted_review,
    crafted_settings,
    crafted_shared,
    crafted_systems,
)
from reliability.crafted_case import Case
from reliability.crafted_runner import TIMEOUT, Server, Verdict, judge
from reliability.crafted_world import make_world

# The share of the runs that are drawn from grammars.
DRAWN = 0.4
# After so many runs, the record is written.
_SAVE_EVERY = 25


def cases_by_hand(commands: dict[str, list[dict[str, Any]]]) -> list[Case]:
    """Every case that has a name of its own."""
    found: list[Case] = []
    for module in (
        crafted_records, crafted_hdf5, crafted_base_sets, crafted_models, crafted_checkpoints, crafted_files,
        crafted_settings, crafted_folders, crafted_shared, crafted_accidents, crafted_kept, crafted_systems,
    ):  # fmt: skip
        found += module.by_hand()
    return found + list(crafted_options.by_hand(commands))


def drawn_cases(commands: dict[str, list[dict[str, Any]]], world: Path, seed: int) -> Iterator[Case]:
    """Cases from the grammars, without end."""
    random = Random(f"crafted {seed}")
    draw: tuple[Callable[[], Case], ...] = (
        lambda: crafted_records.drawn(random, world), lambda: crafted_records.drawn(random, world),
        lambda: crafted_models.drawn(random, world), lambda: crafted_options.drawn(random, commands),
        lambda: crafted_options.drawn(random, commands), lambda: crafted_hdf5.drawn(random, world),
        lambda: crafted_settings.drawn(random, world),
    )  # fmt: skip
    while True:
        yield random.choice(draw)()


def chosen(server: Server, world: Path, options: argparse.Namespace) -> list[Case]:
    """The cases of this trial: those of the review, then a sample of the others, then what the grammars give."""
    every = cases_by_hand(server.commands)
    known = sorted({kind_of(case) for case in every})
    classes = options.classes.split(",") if options.classes else known
    if odd := [name for name in classes if name not in known]:
        raise UserError(f"There is no class '{odd[0]}'; {did_you_mean(odd[0], known)}")
    every = [case for case in every if kind_of(case) in classes]
    random = Random(f"chosen {options.seed}")
    cases = [case for case in every if crafted_review.is_of_review(case.name)]
    rest = [case for case in every if not crafted_review.is_of_review(case.name)]
    random.shuffle(rest)
    # As many of each class, as far as it has them.
    turns = Counter[str]()
    rest.sort(key=lambda case: turns.update([kind_of(case)]) or turns[kind_of(case)])
    random.shuffle(cases)
    cases += rest[: max(0, round(options.runs * (1 - DRAWN)) - len(cases))]
    if options.only:
        cases = [case for case in every if case.name.startswith(options.only)]
    wanted = options.runs if not options.only else 0
    # A class that no grammar draws from would never have enough.
    for case in itertools.islice(drawn_cases(server.commands, world, options.seed), 5 * options.runs):
        if options.only and case.name.startswith(options.only):
            cases.append(case)
            break
        if len(cases) >= wanted and not options.only:
            break
        if not options.only and kind_of(case) in classes:
            cases.append(case)
    found = {case.name: case for case in cases}
    if not found:
        raise UserError(f"No case is named '{printable(options.only)}'; the record of a trial has the names.")
    return list(found.values())


def kind_of(case: Case) -> str:
    """The class of a case."""
    return case.name.partition("/")[0]


def trial(options: argparse.Namespace) -> int:
    if options.runs < 1 or options.processes < 1:
        raise UserError("--runs and --processes are 1 or more.")
    with tempfile.TemporaryDirectory(prefix="crafted-", dir=options.scratch) as name:
        folder = Path(name)
        folder.chmod(0o755)
        servers = [
            Server(options.package.resolve(), folder / f"server-{number}") for number in range(options.processes)
        ]
        try:
            world = make_world(servers[0], folder)
            cases = chosen(servers[0], world, options)
            record = _run_all(cases, servers, world, folder, options)
        finally:
            for server in servers:
                server.close()
    return int(any(verdict["problems"] or not verdict["made"] for verdict in record["runs"]))


def _run_all(
    cases: list[Case], servers: list[Server], world: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "seed": options.seed, "hardware": hardware(torch.device("cpu"), ()), "classes": {}, "review": {}, "runs": [],
    }  # fmt: skip
    if options.out and options.out.exists():
        record["runs"] = json.loads(options.out.read_text(encoding="utf-8"))["runs"]
        # What could not be made is tried again.
        record["runs"] = [verdict for verdict in record["runs"] if verdict["made"]]
    done = {verdict["name"] for verdict in record["runs"]}
    left = [case for case in reversed(cases) if case.name not in done]
    lock = threading.Lock()

    def work(server: Server) -> None:
        while True:
            with lock:
                if not left:
                    return
                case = left.pop()
            verdict = judge(server, case, world, folder, options.timeout)
            with lock:
                record["runs"].append(asdict(verdict))
                _tell(verdict, options.verbose)
                if len(record["runs"]) % _SAVE_EVERY == 0:
                    record["classes"] = summary(record["runs"])
                    save(options.out, record)

    threads = [threading.Thread(target=work, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record |= {"classes": summary(record["runs"]), "review": crafted_review.violations_by_row(record["runs"])}
    save(options.out, record)
    rows = [count for count in record["review"].values() if count is not None]
    print(f"rows of the review: {len(rows)} have run, {sum(map(bool, rows))} with violations")
    for name, counts in record["classes"].items():
        print(f"{name:<14}{counts['runs']:>6,} runs {counts['violations']:>6,} violations  {counts['peak_mib']:>5} MiB")
    return record


def _tell(verdict: Verdict, verbose: bool) -> None:
    if verdict.problems or not verdict.made or verbose:
        what = "; ".join(verdict.problems) or ("fine" if verdict.made else "not made")
        print(printable(f"{verdict.name}: {what} [{verdict.seconds:.1f} s, {verdict.last_line}]"), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Numbers of each class, for a table."""
    counts: dict[str, Counter[str]] = {}
    for verdict in runs:
        count = counts.setdefault(verdict["name"].partition("/")[0], Counter())
        count["runs"] += 1
        count["violations"] += bool(verdict["problems"])
        count["not made"] += not verdict["made"]
        count["peak_mib"] = max(count["peak_mib"], verdict["peak_mib"])
        count["slowest_seconds"] = max(count["slowest_seconds"], round(verdict["seconds"]))
    return {name: dict(count) for name, count in sorted(counts.items())}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", default="", help="by default all of them")
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1], help="the checkout to run")
    parser.add_argument("--only", default="", help="the name of a case, or how names begin")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds after which a run has no end")
    parser.add_argument("--scratch", type=Path, help="where the folders of the runs are made")
    parser.add_argument("--verbose", action="store_true", help="print every run")
    parser.add_argument("--out", type=Path, help="JSON with every run, written as it goes on")
    options = parser.parse_args(words)
    return exit_code(lambda: trial(options))


if __name__ == "__main__":
    sys.exit(main())
