"""Folders as share writes them, for the tests of sharing."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.cli_runs import ROOM, dataset, done

FILES = {"README.md", "SHA256SUMS", "croissant.json", "det-source.safetensors", "det.h5", "det.png"}


@cache
def shared() -> Path:
    """A folder that tests look at but never change."""
    out = ROOM / "shared" / "det-share"
    assert done("share", dataset("det"), "--out", out).out == f"{out}\n"
    return out


def movable(folder: Path) -> Path:
    """The set with its models, to be changed."""
    shutil.copy(dataset("det"), folder / "det.h5")
    shutil.copytree(ROOM / "models", folder / "models")
    return folder / "det.h5"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The header of a card, parsed, and its text."""
    parts = re.fullmatch(r"---\n(.*?\n)---\n(.*)", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert parts
    tree = yaml.safe_load(parts[1])
    assert isinstance(tree, dict)
    return tree, parts[2]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def sums_hold(folder: Path) -> None:
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert listed == sorted({path.name for path in folder.iterdir()} - {"SHA256SUMS"})
