"""The guide: every command in it, run as a reader runs it, one after the other in one folder that is empty at first."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cli_runs import done
from tests.helpers.image_files import make_arrays, save

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
PICTURES = GUIDE.with_suffix("")
# Of a picture that is kept beside the guide.
MAX_BYTES = 110_000

FRESH = ("robust", "nonrobust", "robust-noise", "nonrobust-noise", "rand", "det")
# What is tested is that commands fit together and leave what the guide shows, not how well a model learns. By a
# command's first words, the longest that fit: what is appended to it here.
SHORTER = {
    "train": "--epochs 2 --set evaluation.steps=2",
    # The stand-ins have fewer images.
    "train --data": "--set evaluation.steps=2 --set evaluation.rows=30",
    # Ten seconds and more, and most of that is queries.
    "attack plain.safetensors --attack square": "--rows 20",
    "attack plain.safetensors --attack ensemble": "--rows 20 --set steps=5 --set queries=20",
    "attack dr.safetensors --attack ensemble": "--rows 20 --set steps=5 --set queries=20",
    "attack plain.safetensors --sanity": "--set queries=200",
    "make-robust-dataset": "--steps 5",
    "make-dataset det": "--steps 5",
    "evaluate det.h5": "--epochs 2 --set evaluation.steps=2",
    "evaluate plain": "--set evaluation.steps=2",
    # Minutes: fifteen models, six sets and two judgements.
    "reproduce": " ".join([
        "--seeds 1 --set evaluation.steps=2 --set honesty.rows=20 --set honesty.eps=[1.25] --set runtime.jobs=1",
        "--set sources.standard.epochs=1 --set sources.robust.epochs=1",
        *(f"--set synthesis.{kind}.steps=2 --set fresh.{kind}.epochs=1" for kind in FRESH),
    ]),
    # Nothing is made, and so nothing is shortened.
    "reproduce --dry-run": "",
    "reproduce --config cifar10-cpu --dry-run": "",
}  # fmt: skip
# No test downloads; these stand in for the sets of these names.
STAND_INS = ("mnist", "fashion-mnist")


def guide() -> str:
    return GUIDE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", guide(), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines()]


def shown() -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(guide/([^)]+)\)", guide())


def mentioned() -> set[str]:
    """Files that commands, what they print, and the text name; a picture in the guide is one by its name alone."""
    text = re.sub(r"\]\([^)]*\)", "]", guide())
    return set(re.findall(r"[\w/-]+\.(?:h5|safetensors|png|json|csv|html)\b", text))


def appended(words: str) -> str:
    fitting = [start for start in SHORTER if words.startswith(start)]
    return SHORTER[max(fitting, key=len)] if fitting else ""


def stand_in(folder: Path, name: str) -> Path:
    return save(folder / f"{name}.npz", make_arrays(rows=60, shape=(28, 28, 1), classes=10))


def test_no_command_is_missed() -> None:
    lines = [line for line in guide().splitlines() if line.startswith("featuregen")]
    assert commands() == lines and len(lines) > 25
    assert all(line.startswith("featuregen ") for line in lines)
    # Nor is there anything else to run, under another name.
    assert set(re.findall(r"^```(.+)$", guide(), flags=re.MULTILINE)) == {"console", "text"}
    inline = set(re.findall(r"`featuregen ([a-z-]+)[^`]*`", guide()))
    assert inline <= {line.split()[1] for line in lines}
    for start in SHORTER:
        assert any(line.removeprefix("featuregen ").startswith(start) for line in lines), start


def test_every_command_works_after_the_ones_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.chdir(room)
    stand_ins: dict[str, Path] = {}
    for line in commands():
        words = line.removeprefix("featuregen ")
        more = appended(words)
        for name in STAND_INS:
            if f"--data {name} " in words:
                stand_ins[words.split()[-1]] = stand_in(tmp_path, name)
                words = words.replace(f"--data {name} ", f"--config {name} --data {stand_in(tmp_path, name)} ")
        # A set in a file must be named again, which the official one need not be.
        for file in {*words.split()[1:2]} & {*stand_ins}:
            more = f"{more} --data {stand_ins[file]}"
        done(*shlex.split(words), *shlex.split(more))
    made = {path.relative_to(room).as_posix() for path in room.rglob("*") if path.is_file()}
    names = {Path(path).name for path in made}
    assert not {Path(file).name for file in mentioned()} - names
    assert not {file for file in mentioned() if "/" in file} - made
    assert not set(shown()) - names
    for name in shown():
        (path, *_) = (room / each for each in made if Path(each).name == name)
        with Image.open(path) as fresh, Image.open(PICTURES / name) as kept:
            assert fresh.format == kept.format == "PNG" and len(np.unique(np.asarray(fresh))) > 10


def test_the_pictures_beside_the_guide_are_those_it_shows() -> None:
    assert sorted(path.name for path in PICTURES.iterdir()) == sorted(shown())
    for name in shown():
        assert (PICTURES / name).stat().st_size < MAX_BYTES, name
