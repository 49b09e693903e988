"""Checking a file against the `SHA256SUMS` beside it, in the format of `sha256sum`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from featuregen.errors import UserError
from featuregen.storage.verify import Check

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
# Thousands of lines; a hostile list must not fill the memory.
_MAX_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(path: Path) -> list[Check]:
    """Whether the file has the listed sha256; no check where no list names the file."""
    listed = _listed_sha256(Path(path))
    if listed is None:
        return []
    computed = file_sha256(Path(path))
    detail = f"every byte is as it was, {computed[:12]}…"
    if computed != listed:
        detail = f"the file's bytes give {computed[:12]}…, and {SUMS} beside it says {listed[:12]}…"
    return [Check(SUMS, computed == listed, detail)]


def _listed_sha256(path: Path) -> str | None:
    sums = path.parent / SUMS
    try:
        with sums.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read {sums}: {error.strerror}.") from None
    if len(text) > _MAX_BYTES:
        raise UserError(f"{sums} is larger than 1 MiB; leave only the line of {path.name} in it.")
    matches = [_LINE.fullmatch(line) for line in text.decode("utf-8", "replace").splitlines()]
    return next((match[1].lower() for match in matches if match and match[2].removeprefix("./") == path.name), None)
