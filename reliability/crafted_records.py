"""Datasets whose JSON records, attributes or columns break one rule; both digests are made to agree again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from reliability.crafted_breaks import ALL_BREAKS, ESCAPES, broken, dotted, places
from reliability.crafted_case import Case, Place, Prepare, case
from reliability.crafted_datasets import COLUMNS, Edit, beside, edited, put, set_column, set_rows, set_text
from reliability.crafted_world import SOURCE

RECORDS = ("recipe", "base", "source_model", "software", "config", "classes")

# What is done with a dataset that somebody sent; F stands for the file.
COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "F"), "info-json": ("info", "F", "--json"), "verify": ("verify", "F"),
    "verify-source": ("verify", "F", "--data", "digits", "--source", SOURCE), "verify-json": ("verify", "F", "--json"),
    "diff": ("diff", "F", "good.h5"), "diff-json": ("diff", "good.h5", "F", "--json"), "remake": ("remake", "F"),
    "remake-source": ("remake", "F", "--source", SOURCE, "--data", "digits"),
    "remake-cpu": ("remake", "F", "--device", "cpu"), "evaluate": ("evaluate", "F"),
    "evaluate-json": ("evaluate", "F", "--json", "--seeds", "1"), "preview": ("preview", "F"),
    "share": ("share", "F", "--source", SOURCE), "share-alone": ("share", "F", "--without-source"),
    "imagefolder": ("export", "F", "--format", "imagefolder"), "npz": ("export", "F", "--format", "npz"),
    "madry": ("export", "F", "--format", "madry"), "parquet": ("export", "F", "--format", "parquet"),
    "train": ("train", "--on", "F", "--epochs", "1", "--out", "t.safetensors"),
    "attack": ("attack", SOURCE, "--data", "F", "--attack", "pgd", "--eps", "0.5", "--rows", "20", "--set", "steps=2"),
    "merge": ("merge", "F", "shard-2.h5", "--out", "m.h5"), "make": (
        "make-dataset", "det", "--data", "F", "--config", "tiny.yaml", "--source", SOURCE, "--out", "o.h5",
    ),
}  # fmt: skip


def prepared(world_name: str, edit: Edit, name: str = "") -> Prepare:
    """The edited file and what the person has beside it; with a name, the file is made once and copied."""

    def prepare(place: Place) -> None:
        beside(place)
        kept = place.world / "edited" / f"{name}.h5"
        if name and kept.exists():
            shutil.copyfile(kept, place.work / "a.h5")
            return
        path = edited(place, world_name, edit)
        if name:
            kept.parent.mkdir(exist_ok=True)
            # Another thread may be about to copy it.
            shutil.copyfile(path, place.home / "a.h5")
            (place.home / "a.h5").rename(kept)

    return prepare


def words_of(command: str) -> tuple[str, ...]:
    return tuple("a.h5" if word == "F" else word for word in COMMANDS[command])


# By hand -------------------------------------------------------------------------------------------


def _broken_record(record: str, path: tuple[str | int, ...], name: str) -> Edit:
    return lambda file: put(file, record, broken(json.loads(file.attrs[record]), path, name))


def _field(record: str, *path: str | int) -> Callable[[str], Edit]:
    """Breaks of one field by name."""

    return lambda name: _broken_record(record, path, name)


def _both(*edits: Edit) -> Edit:
    def edit(file: h5py.File) -> None:
        for each in edits:
            each(file)

    return edit


def _bare(record: str, path: Sequence[str | int], text: str) -> Edit:
    """One field set to a JSON text that is in no list of breaks."""

    def edit(file: h5py.File) -> None:
        tree = json.loads(file.attrs[record])
        holder = tree
        for part in path[:-1]:
            holder = holder.setdefault(part, {})
        holder[path[-1]] = "@@"
        put(file, record, json.dumps(tree).replace('"@@"', text))

    return edit


def _many_attributes(file: h5py.File) -> dict[str, str]:
    # h5py looks each name up several times.
    space, kind = h5py.h5s.create(h5py.h5s.SCALAR), h5py.h5t.py_create(h5py.string_dtype(), logical=True)
    text = np.array("x", dtype=h5py.string_dtype())
    for number in range(15_000):
        h5py.h5a.create(file.id, f"note{number}".encode(), kind, space).write(text)
    return {f"note{number}": "x" for number in range(15_000)}


_OTHER_WEIGHTS = _bare("source_model", ["weights_sha256"], f'"{"0" * 64}"')
_CLASSES = json.dumps([f"{number}_x" for number in range(100_000)])
# Names as in the review; the file that is edited, and how.
BY_HAND: dict[str, tuple[str, Edit]] = {
    "kind-attacked-c": ("attacked.h5", _bare("recipe", ["attack"],
            '{"name": "lbfgs", "c": ' + "9" * 400 + ', "norm": "l2", "eps": 0.5}')),
    "kind-attacked-e": ("attacked.h5", _bare("recipe", ["attack", "target"], '["3"]')),
    "kind-attacked-eps-list": ("attacked.h5", _field("recipe", "attack", "eps")("list")),
    # The rows are those of the base set it names, and a split that is not recorded would be the training images.
    "kind-attacked-split": ("det.h5", _both(set_text("kind", "attacked"), _field("base", "split")("gone"), _bare(
            "recipe", ["attack"], '{"name": "pgd", "norm": "l2", "eps": 0.5, "steps": 2, "target": ""}'))),
    "kind-attacked-of-det": ("det.h5", set_text("kind", "attacked")),
    "kind-unknown-nosyn": ("det.h5", _both(set_text("kind", "robusta"), _field("recipe", "synthesis")("gone"))),
    "kind-unknown": ("det.h5", set_text("kind", "robusta")),
    "kind-esc": ("det.h5", set_text("kind", f"det{ESCAPES}")),
    "citation-esc": ("det.h5", set_text("citation", f"Someone{ESCAPES}\u202e")),
    "created-esc": ("det.h5", set_text("created", f"2026{ESCAPES}")),
    "config-data-tilde": ("det.h5", _field("config", "data", "name")("tilde")),
    "config-data-tilde2": ("det.h5", _field("config", "data", "name")("tilde2")),
    "config-folder-tilde": ("det.h5", _field("config", "data", "folder")("tilde")),
    "config-data-fifo": ("det.h5", _field("config", "data", "name")("fifo")),
    "config-data-1MB": ("det.h5", _field("config", "data", "name")("1MB")),
    "config-key-esc": ("det.h5", _field("config", "data", "name")("key-esc")),
    "config-threads": ("det.h5", _bare("config", ["runtime", "threads"], "1000000000000")),
    "config-threads-1024": ("det.h5", _bare("config", ["runtime", "threads"], "1024")),
    "noise-gone": ("robust.h5", _field("recipe", "synthesis", "noise")("gone")),
    "synthesis-none": ("det.h5", _field("recipe", "synthesis")("none")),
    "seed-gone": ("det.h5", _field("recipe", "seed")("gone")),
    "shard-zero": ("shard-1.h5", _bare("recipe", ["shard", "of"], "0")),
    "shard-text": ("shard-1.h5", _bare("recipe", ["shard", "of"], '"2"')),
    "shard-first-text": ("shard-1.h5", _bare("recipe", ["shard", "first"], '"0"')),
    "shard-list": ("det.h5", _bare("recipe", ["shard"], "[1, 2]")),
    "source-is-list": ("det.h5", set_text("source_model", "[]")),
    # Settings matter where no model of these weights is found, so that one has to be trained.
    "source-list": ("det.h5", _both(_field("source_model", "settings")("list"), _OTHER_WEIGHTS)),
    "source-settings-text": ("det.h5", _both(_field("source_model", "settings")("text"), _OTHER_WEIGHTS)),
    "software-device-esc": ("det.h5", _field("software", "device")("esc")),
    "software-batch-4301": ("det.h5", _bare("software", ["batch"], '"' + "9" * 4301 + '"')),
    "software-batch-huge": ("det.h5", _bare("software", ["batch"], '"1000000000000"')),
    "norm-list": ("det.h5", _field("recipe", "synthesis", "norm")("list")),
    "norm-dict": ("det.h5", _field("recipe", "synthesis", "norm")("dict")),
    "base-split-esc": ("det.h5", _field("base", "split")("esc")),
    "base-split-esc-name": ("det.h5", _both(_field("base", "split")("esc"),
            _bare("base", ["name"], '"' + "\\u001b" + "A" * 50_000 + '"'))),
    "classes-esc": ("det.h5", set_text("classes", json.dumps([f"{number}{ESCAPES}" for number in range(10)]))),
    "classes-bidi": ("det.h5", set_text("classes", json.dumps([f"{number}\u202e" for number in range(10)]))),
    "classes-surrogate": ("det.h5", set_text("classes", json.dumps([f"\ud800{number}" for number in range(10)]))),
    "classes-dollar": ("det.h5", set_text("classes", json.dumps([f"${number}\\frac$" for number in range(10)]))),
    "classes-long": ("det.h5", set_text("classes", _CLASSES)),
    "classes-200k": ("det.h5", set_text("classes", json.dumps([f"{number}_{number}" for number in range(200_000)]))),
    "classes-empty": ("det.h5", set_text("classes", '["", "", "", "", "", "", "", "", "", ""]')),
    "rate-inf": ("det.h5", lambda file: put(file, "success_rate", np.float64("inf"))),
    "rate-nan": ("det.h5", lambda file: put(file, "success_rate", np.float64("nan"))),
    "range-nan": ("det.h5", lambda file: put(file, "value_range", np.array([0.0, np.nan]))),
    "range-inf": ("det.h5", lambda file: put(file, "value_range", np.array([-np.inf, np.inf]))),
    "15k text attributes": ("det.h5", _many_attributes),
    "1MB citation": ("det.h5", set_text("citation", "w" * 1_000_000)),
    "long version": ("det.h5", _field("software", "featuregen")("long-word")),
    "eps list 1e5": ("det.h5", _bare("config", ["evaluation", "l2"],
            json.dumps([0.5] + [n / 1e6 for n in range(1, 100_000)]))),
    "eps list accuracy": ("det.h5", _bare("source_model", ["accuracy", "settings", "l2"],
            json.dumps([n / 1e6 for n in range(1, 100_000)]))),
    "restarts 1e12": ("det.h5", _bare("config", ["evaluation", "restarts"], "1000000000000")),
    "steps 1e12": ("det.h5", _bare("recipe", ["synthesis", "steps"], "1000000000000")),
    "epochs 1e12": ("det.h5", _bare("source_model", ["settings", "training", "epochs"], "1000000000000")),
    "five channels": ("det.h5", set_column("images", np.zeros((40, 5, 8, 8), np.uint8))),
    "index max": ("det.h5", set_rows("index", 3, 2**63 - 1)),
    "start max": ("det.h5", set_rows("start_index", 3, 2**63 - 1)),
    "index beyond": ("det.h5", set_rows("index", 3, 1_000_067)),
    "rob start beyond": ("robust.h5", set_rows("start_index", 3, 1_000_000)),
    "index twice": ("det.h5", set_rows("index", slice(0, 2), 5)),
    "labels beyond": ("det.h5", set_rows("labels", 0, 10)),
    "partly unknown predictions": ("det.h5", set_rows("source_pred", slice(0, 7), -1)),
}  # fmt: skip


def by_hand() -> Iterator[Case]:
    for name, (world_name, edit) in BY_HAND.items():
        for command in COMMANDS:
            yield case(f"records/{name}/{command}", words_of(command), prepared(world_name, edit, name))


# By grammar ----------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    name: ("", "x", ESCAPES, "\u202e", "9" * 5000, "w" * 100_000, None, 0, -1, 2**62, 0.5, np.float64("nan"),
           np.arange(3), np.zeros(5000), np.bytes_(b"\xff\xfe"), np.array(["a", "b"], dtype="S1"))
    for name in ("kind", "citation", "created", "format", "format_version", "value_range", "success_rate",
                 "content_sha256", "record_sha256", "unknown")
}  # fmt: skip
COLUMN_VALUES = (-2, -1, 0, 9, 10, 39, 1438, 10**6, 2**31, 2**62, 2**63 - 1, -(2**63))
_DTYPES = ("<i8", ">i8", "<i4", "u1", "<f2", "<f4", "<f8", "S3", "?", "<u8", "c8")
_SHAPES = (
    (0,),
    (1,),
    (39,),
    (41,),
    (40, 1),
    (40, 2, 8, 8),
    (40, 1, 8, 9),
    (40, 5, 8, 8),
    (40, 1, 0, 8),
    (1, 1, 8, 8),
    (),
)


@cache
def _records(world: Path, world_name: str) -> dict[str, Any]:
    with h5py.File(world / world_name, "r", locking=False) as file:
        return {name: json.loads(file.attrs[name]) for name in RECORDS}


def _drawn_edit(random: Random, world: Path) -> tuple[str, str, Edit]:
    """The name of a break, the file that has it, and the edit."""
    world_name = random.choice(("det.h5", "det.h5", "robust.h5", "attacked.h5", "shard-1.h5", "own/own-det.h5"))
    stem = Path(world_name).stem
    kind = random.random()
    if kind < 0.7:
        record = random.choice(RECORDS)
        tree = _records(world, world_name)[record]
        path, name = random.choice(list(places(tree))), random.choice(ALL_BREAKS)
        return f"{stem}-{record}.{dotted(path)}-{name}", world_name, _broken_record(record, path, name)
    if kind < 0.82:
        name = random.choice(list(ATTRIBUTES))
        number = random.randrange(len(ATTRIBUTES[name]))
        return f"{stem}-{name}-{number}", world_name, lambda file: put(file, name, ATTRIBUTES[name][number])
    column = random.choice(COLUMNS)
    if kind < 0.91:
        value = random.choice(
            COLUMN_VALUES if column not in ("norm", "objective") else (np.nan, np.inf, -1.0, 1e30, 0.0)
        )
        rows = random.choice((0, slice(0, 5), slice(0, None)))
        value = min(abs(int(value)), 255) if column == "images" else value
        return f"{stem}-{column}-{value}-{rows}".replace(" ", ""), world_name, set_rows(column, rows, value)
    if random.random() < 0.5:
        dtype = random.choice(_DTYPES)
        return (
            f"{stem}-{column}-{dtype}",
            world_name,
            lambda file: set_column(column, file[column][()].astype(dtype))(file),
        )
    shape = random.choice(_SHAPES)
    return (
        f"{stem}-{column}-{shape}".replace(" ", ""),
        world_name,
        set_column(column, np.zeros(shape, np.uint8 if column == "images" else "<i8")),
    )


def drawn(random: Random, world: Path) -> Case:
    """A case of a random command on a file with one rule broken."""
    name, world_name, edit = _drawn_edit(random, world)
    command = random.choice(list(COMMANDS))
    return case(f"records/~{name}/{command}", words_of(command), prepared(world_name, edit))
