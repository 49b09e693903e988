"""Checking a file against the `SHA256SUMS` beside it, as `sha256sum -c` does: every line that names it counts."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from featuregen.errors import UserError
from featuregen.storage.verify import Check

SUMS = "SHA256SUMS"
# The styles that `sha256sum -c` reads. Names with a backslash or a line end are escaped, after a backslash.
_LINES = (
    re.compile(r"(?P<escape>\\?)(?P<digest>[0-9a-fA-F]{64}) [ *]?(?P<name>.+)"),
    re.compile(r"(?P<escape>\\?)SHA256 \((?P<name>.+)\) = (?P<digest>[0-9a-fA-F]{64})"),
)
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
# Thousands of lines; a hostile list must not fill the memory.
_MAX_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(path: Path) -> list[Check]:
    """Whether the file has every sha256 that the list beside it gives it; no check without a list that names it.

    A list with a line of any other form fails: what cannot be read cannot be compared.
    """
    path = Path(path)
    text = _read(path)
    if text is None:
        return []
    listed: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = next(filter(None, (style.fullmatch(line.lstrip()) for style in _LINES)), None)
        if match is None:
            return [Check(SUMS, False, f"line {number} of {SUMS} is not as sha256sum writes it: {line[:80]!r}")]
        name = (
            re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], match["name"]) if match["escape"] else match["name"]
        )
        if name.removeprefix("./") == path.name:
            listed.append(match["digest"].lower())
    return [_compare(path, listed)] if listed else []


def _compare(path: Path, listed: list[str]) -> Check:
    computed = file_sha256(path)
    wrong = next((digest for digest in listed if digest != computed), None)
    if wrong:
        return Check(SUMS, False, f"the file's bytes give {computed[:12]}…, and {SUMS} beside it says {wrong[:12]}…")
    return Check(SUMS, True, f"every byte is as it was, {computed[:12]}…")


def _read(path: Path) -> str | None:
    """The text of the list beside a file; None if there is none."""
    sums = path.parent / SUMS
    if not os.path.lexists(sums):
        return None
    if not sums.is_file():
        raise UserError(f"{sums} is no regular file; remove it, or put the list of checksums there.")
    try:
        with sums.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read {sums}: {error.strerror}.") from None
    if len(content) > _MAX_BYTES:
        raise UserError(f"{sums} is larger than 1 MiB; leave only the line of {path.name} in it.")
    return content.decode("utf-8", "surrogateescape")
