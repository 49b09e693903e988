"""The house rules: who may import whom, how long a file may be, and that help is instant."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featuregen

HOUSE = Path(featuregen.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

# From bottom to top: a room imports only rooms below it.
ROOMS = (
    "errors",
    "config",
    "runtime",
    "data",
    "models",
    "compute",
    "attacks",
    "training",
    "synthesis",
    "storage",
    "evaluation",
    "report",
    "interop",
    "publish",
    "experiment",
    "cli",
)
# Below, and still not to be imported.
UNKNOWN = {
    "storage": {"models", "compute", "attacks", "training", "synthesis"},
    "evaluation": {"training"},
    "report": {"data", "models", "compute", "attacks", "training", "synthesis", "evaluation", "storage"},
    "publish": {"models", "compute", "attacks", "training"},
}
# Entrances, which belong to no room.
DOORS = ("__init__", "__main__")


def room_of(file: Path) -> str:
    return file.relative_to(HOUSE).with_suffix("").parts[0]


def imported(tree: ast.AST, package: str) -> set[str]:
    """Every module named by an import anywhere in a file, those inside functions included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            # `from featuregen import config` names a room in its second half.
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def modules_of(file: Path) -> set[str]:
    package = ".".join(["featuregen", *file.relative_to(HOUSE).parts[:-1]])
    return imported(ast.parse(file.read_text(encoding="utf-8")), package)


def rooms_of(file: Path) -> set[str]:
    inside = (name.split(".") for name in modules_of(file) if name.startswith("featuregen."))
    return {parts[1] for parts in inside} & set(ROOMS) - {room_of(file)}


def name_of(file: Path) -> str:
    return file.relative_to(HOUSE).as_posix()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import featuregen.storage.reader", "featuregen.storage.reader"),
        ("from featuregen import storage", "featuregen.storage"),
        ("from featuregen.storage import Writer", "featuregen.storage"),
        ("def later():\n    from featuregen.storage import Writer", "featuregen.storage"),
        ("from .. import storage", "featuregen.storage"),
        ("from ..storage import Writer", "featuregen.storage"),
        ("from . import pgd", "featuregen.attacks.pgd"),
    ],
)
def test_every_way_to_import_is_seen(source: str, expected: str) -> None:
    assert expected in imported(ast.parse(source), "featuregen.attacks")


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(file) for file in FILES} == {*ROOMS, *DOORS}


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) in ROOMS], ids=name_of)
def test_a_room_imports_only_rooms_below_it(file: Path) -> None:
    room = room_of(file)
    allowed = set(ROOMS[: ROOMS.index(room)]) - UNKNOWN.get(room, set())
    assert rooms_of(file) <= allowed


@pytest.mark.parametrize("file", ["training/loop.py", "training/early_stopping.py"])
def test_training_knows_no_attack_but_pgd(file: str) -> None:
    used = {name for name in modules_of(HOUSE / file) if name.startswith("featuregen.attacks")}
    assert used and {name.split(".")[2] for name in used} == {"pgd"}


@pytest.mark.parametrize(
    ("room", "strangers"),
    [
        ("errors", {"torch", "numpy", "h5py", "matplotlib", "typer"}),
        ("config", {"torch", "numpy", "h5py", "matplotlib", "typer"}),
        ("models", {"h5py", "typer", "matplotlib"}),
        ("compute", {"h5py", "typer", "matplotlib"}),
        ("attacks", {"h5py", "typer", "matplotlib"}),
        ("training", {"h5py", "typer", "matplotlib"}),
        ("synthesis", {"h5py", "typer", "matplotlib"}),
        ("storage", {"typer", "matplotlib"}),
        ("evaluation", {"h5py", "typer", "matplotlib"}),
        ("report", {"torch", "h5py", "typer"}),
        ("publish", {"torch", "h5py", "typer", "matplotlib"}),
        ("experiment", {"typer"}),
    ],
)
def test_a_room_leaves_other_trades_alone(room: str, strangers: set[str]) -> None:
    used = {name.split(".")[0] for file in FILES if room_of(file) == room for name in modules_of(file)}
    assert not used & strangers


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_is_longer_than_a_room(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [name_of(file) for file in FILES if drawers & set(file.relative_to(HOUSE).with_suffix("").parts)]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HELP = """
import sys
from featuregen.cli import app, main
import typer.main
commands = sorted(typer.main.get_command(app).commands)
for words in [["--help"], *([name, "--help"] for name in commands)]:
    sys.argv = ["featuregen", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
heavy = {"torch", "torchvision", "numpy", "h5py", "sklearn", "matplotlib"} & set(sys.modules)
print("loaded", sorted(heavy), "of", len(commands))
"""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    told = python(HELP)
    assert "Usage" in told and "reproduce" in told
    assert told.splitlines()[-1].startswith("loaded [] of ")


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert python("import sys, featuregen; print('torch' in sys.modules, featuregen.UserError.__name__)") == (
        "False UserError\n"
    )


def test_every_name_of_the_package_is_there() -> None:
    assert sorted(featuregen.__all__) == dir(featuregen)
    for name in featuregen.__all__:
        assert getattr(featuregen, name).__name__ == name
    missing = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(featuregen, missing)
