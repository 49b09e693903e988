"""Files that are in featuregen's way and are not featuregen's."""

from __future__ import annotations

import os
from pathlib import Path

MINE = "mine"
KINDS = ("link", "broken link", "hard link", "pipe", "folder")


def put(kind: str, path: Path, outside: Path) -> None:
    """Something in the place of a file; the first three also lead to a file `outside`."""
    if kind in ("link", "hard link"):
        outside.write_text(MINE, encoding="utf-8")
    if kind in ("link", "broken link"):
        path.symlink_to(outside)
    elif kind == "hard link":
        os.link(outside, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text(MINE, encoding="utf-8")


def tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """What a folder holds: by name, the kind of each entry and its content."""
    found: dict[str, tuple[str, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[str(path.relative_to(folder))] = ("file", path.read_bytes())
        else:
            found[str(path.relative_to(folder))] = ("folder" if path.is_dir() else "other", b"")
    return found
