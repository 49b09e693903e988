"""Folders that others have filled, and a person's own files beside an output: nothing of theirs is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.cli_runs import Ran, dataset, model, run, tiny
from tests.helpers.foreign_files import MINE, put, tree

FAST = ("--config", "tiny.yaml", "--set", "honesty.rows=20", "--set", "honesty.eps=[1.0]", "--set", "runtime.jobs=1")
DET = "make-dataset det --config tiny.yaml --source s.safetensors"
FLIPS = [f"datasets_out/flips/{name}" for name in ("flips.json", "flips.csv", "flips-s.png")]
TRANSFER = [f"datasets_out/transfer.{suffix}" for suffix in ("json", "png")]
# The words of a command, and its outputs.
COMMANDS = {
    "make-dataset": (DET, ["datasets_out/digits-det.h5", "datasets_out/digits-det.png"]),
    "make-dataset --out": (f"{DET} --out it.h5", ["it.h5", "it.png"]),
    "make shard": (f"{DET} --out it.h5 --shard 1/1", ["it.shard-01-of-01.h5", "arithmetic", "standard"]),
    "merge": ("merge it.shard-01-of-01.h5", ["it.h5"]),
    "train": ("train --config tiny.yaml --out it.safetensors", ["it.safetensors", "models/arithmetic.json"]),
    "attack": ("attack s.safetensors --attack fgsm --eps 0.2 --rows 20 --out it.h5", ["it.h5", "it.png"]),
    "attack --sanity": (
        "attack s.safetensors --sanity --eps 0.1 --rows 30 --set queries=5 --set steps=2 --out it.json",
        ["it.json", "it.png"],
    ),
    "flips": ("flips s.safetensors --attacks fgsm --eps 0.2 --rows 40", FLIPS),
    "transfer": ("transfer --config tiny.yaml --models convnet:4 --seeds 1", [*TRANSFER, "datasets_out/digits-det.h5"]),
    "preview": ("preview det.h5", ["det.png"]),
    "remake": ("remake det.h5 --source s.safetensors", ["det-remade.h5"]),
    "share": ("share det.h5 --source s.safetensors", ["det-share"]),
    "export madry": ("export det.h5 --format madry", ["det-madry"]),
    "export imagefolder": ("export det.h5 --format imagefolder", ["det-imagefolder"]),
    "export npz": ("export det.h5 --format npz", ["det.npz"]),
    "import": ("import released --kind det --config tiny.yaml --data digits --within 1.1 --out it.h5", ["it.h5"]),
}
# Those that take seconds each, or write as another command does.
_SLOW = ("make-dataset", "attack", "attack --sanity", "transfer", "remake", "export madry", "export npz", "import")
_KINDS = ("hard link", "pipe")
EACH = [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in COMMANDS]
# What earlier versions, or this one, write beside an output.
BESIDE = ("{}.partial", "{}.finishing", "{}.old", "{}.lock", ".{}.featuregen-partial", ".{}.featuregen-lock")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the commands need."""
    folder = tmp_path / "room"
    folder.mkdir()
    shutil.copy(dataset("det"), folder / "det.h5")
    shutil.copy(model("standard"), folder / "s.safetensors")
    shutil.copy(tiny(), folder / "tiny.yaml")
    monkeypatch.chdir(folder)
    return folder


def prepare(name: str) -> None:
    if name == "merge":
        assert run(*COMMANDS["make shard"][0].split()).code == 0
    if name == "import":
        assert run("export", "det.h5", "--format", "madry", "--out", "released").code == 0


def surroundings(output: str) -> list[Path]:
    path = Path(output)
    return [path.with_name(each.format(path.name)) for each in BESIDE]


def run_tidily(name: str) -> Ran:
    """What a command did; a refusal is one sentence."""
    ran = run(*COMMANDS[name][0].split())
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (ran.code == 2) and ran.code in (0, 1, 2), ran
    return ran


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(pytest.param(*each.values, "link", marks=each.marks) for each in EACH),
        *(("make-dataset --out", kind) for kind in _KINDS),
        *(pytest.param(name, kind, marks=pytest.mark.slow) for name in ("preview", "share") for kind in _KINDS),
    ],
)
def test_nothing_is_written_through_the_links_of_a_received_folder(
    tmp_path: Path, room: Path, name: str, kind: str
) -> None:
    """Every link that stops the command is removed, until it is done."""
    prepare(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    outputs = COMMANDS[name][1]
    places = [place for output in outputs for place in surroundings(output)]
    places += [Path(output) for output in outputs if kind != "hard link"]
    for number, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        put(kind, place, outside / str(number))
    before, stopped = tree(outside), 0
    while (ran := run_tidily(name)).code == 2:
        assert tree(outside) == before
        found = next(place for place in sorted(places, key=lambda place: -len(str(place))) if str(place) in ran.err)
        found.unlink()
        places.remove(found)
        stopped += 1
    assert tree(outside) == before and stopped
    assert all(os.path.lexists(place) for place in places)


@pytest.mark.parametrize("place", ["datasets_out", "datasets_out/models", "datasets_out/flips", "models", "it-folder"])
@pytest.mark.parametrize(
    "name",
    [
        "train",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("make-dataset", "flips", "transfer", "remake")),
    ],
)
def test_folders_that_are_links_are_not_followed(tmp_path: Path, room: Path, name: str, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).symlink_to(outside)
    run_tidily(name)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("place", ["out", "out/tiny", "out/models", "out/tiny/seconds", "out/tiny/judged"])
def test_reproduce_does_not_follow_links(tmp_path: Path, room: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Path(place).parent.mkdir(exist_ok=True, parents=True)
    Path(place).symlink_to(outside)
    ran = run("reproduce", *FAST, "--out", "out")
    assert ran.code == 2 and f"{place} is" not in ran.out and "is a link to" in ran.err and not list(outside.iterdir())


def own_file(path: Path) -> None:
    path.write_text(MINE)


def own_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text(MINE)


@pytest.mark.parametrize("make", [own_file, own_folder])
@pytest.mark.parametrize("name", EACH)
def test_a_persons_own_files_beside_an_output_survive(room: Path, name: str, make: Callable[[Path], None]) -> None:
    """What is called as featuregen's unfinished dataset is only ever renamed."""
    prepare(name)
    places = [place for output in COMMANDS[name][1] for place in surroundings(output)]
    # Files that bear featuregen's name are its own.
    places = [place for place in places if make is own_folder or "featuregen-partial" not in place.name]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        make(place)
    before = {name: found for place in places for name, found in tree(place.parent).items() if MINE.encode() in found}
    run_tidily(name)
    for place in places:
        kept = place / "thesis.txt" if make is own_folder else place
        aside = place.with_name(f"{place.name}.damaged")
        assert (kept if kept.exists() else aside).read_text() == MINE
    assert before


@pytest.mark.parametrize("name", EACH)
def test_commands_are_done_beside_a_persons_own_files(room: Path, name: str) -> None:
    """Of the names in use elsewhere, none stops a command."""
    prepare(name)
    for output in COMMANDS[name][1]:
        for place in surroundings(output):
            place.parent.mkdir(parents=True, exist_ok=True)
            if "featuregen" not in place.name and not (place.suffix == ".partial" and ".h5" in place.name):
                own_folder(place)
    assert run_tidily(name).code in (0, 1)


BY_COMMAND: dict[str, list[str]] = {
    "make-dataset --out": ["it.png"],
    "attack": ["it.png"],
    "attack --sanity": ["it.json", "it.png"],
    "flips": ["datasets_out/flips/flips.json", "datasets_out/flips/flips.csv", "datasets_out/flips/flips-s.png"],
    "transfer": ["datasets_out/transfer.json", "datasets_out/transfer.png"],
    "preview": ["det.png"],
}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        pytest.param(name, output, marks=pytest.mark.slow if name in _SLOW else ())
        for name, outputs in BY_COMMAND.items()
        for output in outputs
    ],
)
def test_a_persons_own_picture_or_table_needs_force(room: Path, name: str, output: str) -> None:
    path, words = Path(output), COMMANDS[name][0].split()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINE)
    before = tree(room)
    ran = run(*words)
    assert ran.code == 2 and f"{output} was not written by featuregen; move it away" in ran.err
    # Refused before any work; what training needs may be there.
    assert {place: found for place, found in tree(room).items() if "models" not in place} == before
    if name == "attack --sanity":
        path.unlink()
    forced = run(*words, *([] if name == "attack --sanity" else ["--force"]))
    assert forced.code in (0, 1) and path.read_bytes() != MINE.encode()
    # And then it is featuregen's own.
    assert run(*words).code == forced.code


@pytest.mark.parametrize("output", ["results.json", "table.md", "report.html", "accuracy.png", "kinds.png"])
def test_a_persons_own_results_need_force(room: Path, output: str) -> None:
    path = Path("out", "tiny", output)
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    ran = run("reproduce", *FAST, "--out", "out")
    assert ran.code == 2 and f"{path} was not written by featuregen; move it away" in ran.err
    assert path.read_text() == MINE and [each.name for each in path.parent.iterdir()] == [output]
