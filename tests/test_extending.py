"""The page on extensions: its code is one file outside the package, and all that it adds works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import Command

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "extend.md"
EXTENSION = ["--plugin", "my_extension.py"]
# What is tested is that all parts work together, not how well a model learns.
SHORTER = {
    "train": "--epochs 1 --set evaluation.steps=1",
    "attack": "--rows 20",
    "make-dataset": "--set sources.standard.epochs=1 --set evaluation.steps=1 --set runtime.threads=1",
    "reproduce": "--dry-run",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def python(folder: Path, *words: str) -> str:
    """In a separate process, which starts without what other tests registered."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def featuregen(folder: Path, *commands: list[str]) -> dict[str, str]:
    """What each command prints, by its name; each runs in a process that knows nothing of the other tests."""
    printed: dict[str, str] = {}
    for words in commands:
        ran = Command(folder, *words, cwd=folder)
        assert ran.wait() == 0, ran.err
        printed[next(word for word in words if word not in EXTENSION)] = ran.out
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the extension, and what the page makes with it from Python."""
    folder = tmp_path_factory.mktemp("extension")
    *parts, use = blocks("python")
    (folder / "my_extension.py").write_text("\n\n".join(parts), encoding="utf-8")
    (folder / "use.py").write_text(use, encoding="utf-8")
    lines = python(folder, "use.py").splitlines()
    assert re.fullmatch(r"\[AttackResult\(359 images, .*\), AttackResult\(359 images, .*\)\]", lines[0])
    assert lines[1] == "True"
    return folder


def test_every_block_is_code_or_commands() -> None:
    languages = re.findall(r"^```(.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(languages) == {"python", "console"} and len(blocks("python")) == 4


def test_the_extension_works_on_the_command_line(folder: Path) -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines]
    assert [words[:2] for words in commands] == [EXTENSION] * 4
    commands = [words + shlex.split(SHORTER[words[2]]) for words in commands]
    file = str(folder / "out" / "digits-opposite.h5")
    printed = featuregen(
        folder, *commands, *([*EXTENSION, *each] for each in (["attacks"], ["models"], ["verify", file]))
    )
    assert (
        "brightness" in printed["attack"] and "brightness" in printed["attacks"] and "two-layers" in printed["models"]
    )
    assert "opposite" in printed["make-dataset"]
    assert "making opposite" in printed["reproduce"] and "fresh models on opposite" in printed["reproduce"]
    assert "each is what the rule of opposite makes of the source label" in printed["verify"]
    assert "the base image itself" in printed["verify"]


def test_a_file_of_the_kind_is_read_without_the_extension(folder: Path) -> None:
    file = str(folder / "out" / "digits-opposite.h5")
    printed = featuregen(folder, ["verify", file], ["info", file])
    assert "no further rule" in printed["verify"] and "no rule to" in printed["verify"]
    assert "unknown kind" in printed["info"]
