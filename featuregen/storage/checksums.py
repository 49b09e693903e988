"""The file's line in a `SHA256SUMS` beside it, as `sha256sum` writes and reads it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from featuregen.errors import UserError
from featuregen.storage.verify import Check

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
# Thousands of lines, and nothing that a stranger could fill the memory with.
_MOST_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(path: Path) -> list[Check]:
    """Whether every byte is as listed; nothing where no list names the file."""
    recorded = _recorded(Path(path))
    if recorded is None:
        return []
    found = file_sha256(Path(path))
    detail = f"every byte is as it was, {found[:12]}…"
    if found != recorded:
        detail = f"the file's bytes give {found[:12]}…, and {SUMS} beside it says {recorded[:12]}…"
    return [Check(SUMS, found == recorded, detail)]


def _recorded(path: Path) -> str | None:
    sums = path.parent / SUMS
    try:
        with sums.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read {sums}: {error.strerror}.") from None
    if len(text) > _MOST_BYTES:
        raise UserError(f"{sums} is larger than 1 MiB; leave the line of {path.name} alone in it.")
    found = [_LINE.fullmatch(line) for line in text.decode("utf-8", "replace").splitlines()]
    return next((match[1].lower() for match in found if match and match[2].removeprefix("./") == path.name), None)
