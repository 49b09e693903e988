"""What a run must not do: what it says, what it changes, and how it ends."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from reliability.crafted_case import Case, Place, Run, Step
from reliability.crafted_process import TRACEBACK_CODE

LONGEST_LINE = 300
# Bytes beyond what the process had before its command; the inputs are some kilobytes each.
PEAK = 1 << 30
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
_SENTENCE = re.compile(r"(error|failed): \S")
_SET_ASIDE = re.compile(r"(\.\d+)?\.damaged(?=/|$)")
_PAGES = (".md", ".html", ".csv", ".svg")
Traces = dict[str, tuple[object, ...]]


def trace(folder: Path) -> Traces:
    """Every file below a folder with its type and content; links are not followed."""
    found: Traces = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = _trace_of(path)
    return found


def _trace_of(path: bytes) -> tuple[object, ...]:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return ("link", os.readlink(path))
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return ("file", hashlib.sha256(file.read()).hexdigest())
    return (stat.S_IFMT(mode),)


def changes(before: Traces, after: Traces, allowed: Iterable[str] = (), new: bool = False) -> list[str]:
    """What became of the files that were there; with `new`, which others there are, too.

    A file that is set aside, whole and under a name that tells so, has not become anything.
    """
    patterns = list(allowed)
    aside = {(_SET_ASIDE.sub("", name), seen) for name, seen in after.items() if name not in before}
    found = []
    for name in sorted({*before, *(after if new else ())}):
        if name not in after and (name, before[name]) in aside:
            continue
        if before.get(name) != after.get(name) and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            what = "gone" if name not in after else "new" if name not in before else "changed"
            found.append(f"{name[:60]!r} is {what}")
    return found


def said_wrong(step: Step, run: Run) -> list[str]:
    """What is wrong with standard output and standard error."""
    problems = []
    json_wanted = "--json" in step.words
    for stream, content in (("stdout", run.out), ("stderr", run.err)):
        text = content.decode(step.environment.get("PYTHONIOENCODING", "utf-8"), "surrogateescape")
        if odd := forbidden(text):
            problems.append(f"{odd} on {stream}")
        longest = max(map(len, text.split("\n")))
        if longest > LONGEST_LINE and not (json_wanted and stream == "stdout"):
            problems.append(f"a line of {longest} characters on {stream}")
    return problems


def forbidden(text: str) -> str:
    """The name of the first kind of character that no terminal or page should get from a file; else nothing."""
    for letter in set(text) - {"\n"}:
        if letter in _BIDIRECTIONAL:
            return "bidirectional or line separators"
        category = unicodedata.category(letter)
        if category == "Cs":
            return "surrogates, or bytes that are no UTF-8,"
        if category == "Cc" and letter != "\t":
            return "control characters"
    return ""


def ended_wrong(step: Step, run: Run) -> list[str]:
    """What is wrong with the exit code, the sentence, the time and the memory."""
    if run.hung:
        return ["no end"]
    # Libraries that get no memory end a process as they like; reliability/kills.py compares what is left.
    problems = [] if step.memory_limit else _exit_wrong(step, run)
    if run.peak > PEAK:
        problems.append(f"{run.peak >> 20} MiB at its peak")
    if run.left:
        problems.append(f"{run.left} processes left running")
    return problems


def _exit_wrong(step: Step, run: Run) -> list[str]:
    err = run.err.decode("utf-8", "replace")
    if run.code == TRACEBACK_CODE or "Traceback (most recent call last)" in err:
        return ["traceback"]
    if run.code not in step.codes:
        return [f"exit code {run.code} instead of {' or '.join(map(str, sorted(step.codes)))}"]
    sentences = sum(bool(_SENTENCE.match(line)) for line in err.split("\n"))
    if run.code in (1, 2) and 2 not in step.closed and sentences != 1:
        return [f"{sentences} sentences that begin with error: or failed:"]
    return []


def pages_wrong(before: Traces, place: Place) -> list[str]:
    """New pages and tables with characters that no page should have."""
    problems = []
    for path in sorted(place.work.rglob("*")):
        name = str(path.relative_to(place.work))
        if path.suffix in _PAGES and name not in before and path.is_file() and not path.is_symlink():
            # csv.writer ends lines with a carriage return.
            text = path.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
            if odd := forbidden(text):
                problems.append(f"{odd} in the new file {path.name[:40]!r}")
    return problems


def problems_of(case: Case, step: Step, run: Run, place: Place, work: Traces, outside: Traces) -> list[str]:
    """Everything that a run should not have done, given what was there before."""
    problems = ended_wrong(step, run) + said_wrong(step, run)
    problems += [f"outside the folder, {what}" for what in changes(outside, trace(place.outside), new=True)]
    problems += [f"a file of the person, {what}" for what in changes(work, trace(place.work), case.may_change)]
    problems += pages_wrong(work, place)
    if step.check and not run.hung and (problem := step.check(place, run)):
        problems.append(problem)
    return problems
