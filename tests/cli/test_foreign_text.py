"""Text of other people's files, through every command: nothing in it reaches a terminal, a page or a picture raw."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from featuregen.cli import app
from featuregen.cli.errors import OneLineErrors
from featuregen.errors import MAX_LINE, UserError, join_lines, printable
from featuregen.runtime import console
from tests.helpers.cli_runs import Ran, dataset, make, model, run, tiny
from tests.helpers.dataset_files import sealed

# An escape sequence, other control characters, marks that turn the direction, a separator, a private character,
# a language mark, letters that fonts lack, and half of a surrogate pair.
NASTY = "\x1b]0;pwned\x07\x1b[2J\r\n\t\x7f\x9b31m\u202e\u2066\u200f\u2028\ue000\U000e0041字🙂א"
HALF = "\ud800"
LONG = "A" * 2000


def check_clean(ran: Ran, words: object, as_json: bool = False) -> None:
    for line in [*ran.err.split("\n"), *([] if as_json else ran.out.split("\n"))]:
        assert line.isprintable() and len(line) <= MAX_LINE, (words, line[:400])
    assert not as_json or (ran.out.isascii() and "\x7f" not in ran.out and "\x1b" not in ran.out), words


def check_page(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").replace("\xa0", " ").split("\n"):
        assert line.isprintable(), (path, line)


def check_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".html", ".csv", ".json"):
            check_page(path)
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert all(str(value).isprintable() for value in image.info.values())


def clean(*words: str | Path) -> Ran:
    """Run a command, which may refuse."""
    ran = run(*words)
    check_clean(ran, words, "--json" in words or "--without-source" in words)
    return ran


# Records of a dataset -------------------------------------------------------------------------------


def with_text(tree: Any, text: str) -> Iterator[tuple[str, Any]]:
    """The record with each of its texts replaced in turn, one inside each dictionary added, and the place's name."""
    if isinstance(tree, str):
        yield "", text
    elif isinstance(tree, dict):
        yield "+", {**tree, text: text}
        for key, value in tree.items():
            for place, changed in with_text(value, text):
                yield f"{key}.{place}", {**tree, key: changed}
    elif isinstance(tree, list) and tree:
        yield "*", [f"{text}{number}" for number in range(len(tree))]


RECORDS = ("classes", "base", "recipe", "source_model", "software", "config")


@pytest.mark.parametrize("text", [NASTY, HALF + NASTY, LONG + NASTY], ids=["nasty", "half", "long"])
@pytest.mark.parametrize("attribute", RECORDS)
def test_records_of_a_dataset(attribute: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "det.h5"
    with h5py.File(dataset("det")) as root:
        record = json.loads(root.attrs[attribute])
    read, places = 0, [changed for _, changed in with_text(record, text)]
    for changed in places[:: max(1, len(places) // 6)]:
        shutil.copyfile(dataset("det"), path)
        with h5py.File(path, "r+") as root:
            root.attrs[attribute] = json.dumps(changed)
        sealed(path)
        read += clean("info", path).code == 0
        clean("info", path, "--json")
        clean("verify", path)
        clean("diff", path, dataset("det"))
    # Longer texts, and those that are no Unicode, a schema may refuse.
    assert read or text != NASTY


@pytest.mark.parametrize("attribute", ["kind", "created", "citation"])
def test_plain_texts_of_a_dataset(attribute: str, tmp_path: Path) -> None:
    path = tmp_path / "det.h5"
    shutil.copyfile(dataset("det"), path)
    with h5py.File(path, "r+") as root:
        root.attrs[attribute] = NASTY + LONG
    sealed(path)
    for words in (["info"], ["verify"], ["diff", dataset("det")], ["preview"], ["share", "--without-source"]):
        clean(*words[:1], path, *words[1:])
    check_folder(tmp_path)


def nasty_dataset(path: Path) -> Path:
    """A whole dataset, whose names of classes and record of software hold such text."""
    shutil.copyfile(dataset("det"), path)
    names = [f"{number}{NASTY}{'x' * 150}" for number in range(10)]
    with h5py.File(path, "r+") as root:
        root.attrs["classes"] = json.dumps(names)
        root.attrs["software"] = json.dumps({**json.loads(root.attrs["software"]), "device": NASTY, "torch": NASTY})
        source = json.loads(root.attrs["source_model"])
        root.attrs["source_model"] = json.dumps({**source, "architecture": NASTY})
    sealed(path)
    return path


COMMANDS = (
    "info FILE", "info FILE --json", "verify FILE", "verify FILE --data digits --source MODEL --json",
    "diff FILE DET", "diff FILE DET --json", "preview FILE",
    "share FILE --source MODEL", "share FILE --without-source --out again",
    "export FILE --format imagefolder", "export FILE --format npz", "export FILE --format parquet",
    "export FILE --format madry",
    "remake FILE --source MODEL", "merge FILE FILE --out merged.h5",
    "evaluate FILE --config TINY",
    "evaluate FILE --config TINY --json", "train --on FILE --config TINY --out net.safetensors",
    "attack MODEL --data FILE --attack fgsm --out attacked.h5",
    "attack MODEL --data FILE --attack nothing --target X",
    "attack MODEL --data FILE --attack fgsm --target X --out x.h5",
    "attack MODEL --data FILE --sanity --out sanity.json",
)  # fmt: skip


def test_a_dataset_through_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = nasty_dataset(tmp_path / "sent.h5")
    places = {"FILE": str(file), "DET": str(dataset("det")), "MODEL": str(model("standard")), "TINY": str(tiny())}
    codes = {line: clean(*(places.get(word, word) for word in line.split())).code for line in COMMANDS}
    check_folder(tmp_path)
    drawn = [
        line
        for line in COMMANDS
        if line.startswith(("info", "preview", "share", "attack MODEL --data FILE --attack fgsm --out"))
    ]
    assert not any(codes[line] for line in drawn), codes


# A base set and models ------------------------------------------------------------------------------


def nasty_folder(path: Path) -> Path:
    random = np.random.default_rng(0)
    for part, rows in (("train", 40), ("test", 12)):
        for name in (f"b{NASTY}", "a" + "ж" * 90):
            (path / part / name).mkdir(parents=True)
            for row in range(rows):
                image = random.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(image).save(path / part / name / f"{row}{NASTY[:5]}.png")
    return path


def test_a_folder_of_pictures_through_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = nasty_folder(tmp_path / "set")
    config = tmp_path / "small.yaml"
    config.write_text(
        "model: {architecture: convnet, width: 8}\nruntime: {device: cpu, precision: fp32, convolution: direct}\n"
        "sources: {standard: &short {epochs: 1, batch_size: 16}, robust: {<<: *short, attack: {eps: 0.5, steps: 1}}}\n"
        "synthesis: {det: {steps: 1, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 16, rows: 20}}\n"
        "fresh: {det: {epochs: 1, batch_size: 10}}\nhonesty: {eps: [1.0], rows: 10}\n"
        "evaluation: {seeds: 1, l2: [0.5], headline: 0.5, steps: 1}\n"
    )
    shared = ("--config", config, "--data", data)
    net, det = tmp_path / "net.safetensors", tmp_path / "det.h5"
    for words in (
        ("train", *shared, "--out", net), ("make-dataset", "det", *shared, "--source", net, "--out", det),
        ("info", det), ("info", net), ("verify", det, "--data", data, "--source", net),
        ("preview", det, "--data", data),
        ("remake", det, "--data", data, "--source", net), ("evaluate", det, *shared), ("evaluate", net, *shared),
        ("attack", net, *shared, "--attack", "fgsm", "--out", "attacked.h5"),
        ("attack", net, *shared, "--attack", "fgsm", "--out", "json.h5", "--json"),
        ("flips", net, *shared, "--attacks", "fgsm", "--eps", "0.3"),
        ("transfer", "--models", "convnet:8,convnet:16", *shared, "--seeds", "1"),
        ("share", det, "--data", data, "--source", net), ("reproduce", *shared), ("reproduce", *shared, "--json"),
        ("export", det, "--format", "parquet"),
    ):  # fmt: skip
        ran = clean(*words)
        assert ran.code == 0, ran.err
    check_folder(tmp_path / "datasets_out")
    check_folder(tmp_path / "det-share")


def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"a{NASTY}" + "x" * 120
    file, net = tmp_path / f"{name}.h5", tmp_path / f"{name}.safetensors"
    shutil.copyfile(dataset("det"), file)
    shutil.copyfile(model("standard"), net)
    for words in (
        ("info", file), ("info", net), ("verify", file, "--source", net), ("diff", file, dataset("det")),
        ("preview", file),
        ("remake", file, "--source", net), ("share", file, "--source", net), ("export", file, "--format", "npz"),
        ("evaluate", net), ("attack", net, "--attack", "fgsm", "--rows", "10"), ("flips", net, "--rows", "20"),
        ("attack", net, "--sanity", "--rows", "10"), ("train", "--on", file, "--config", tiny()),
    ):  # fmt: skip
        clean(*words)
    check_folder(tmp_path)


# What a user types ----------------------------------------------------------------------------------


def test_every_option_of_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    group = typer.main.get_command(app)
    assert isinstance(group, OneLineErrors)
    clean(NASTY)
    for name, command in group.commands.items():
        clean(name, f"--no{NASTY}")
        clean(name, *([f"{NASTY}{LONG}"] * 3))
        kinds = {parameter.name: parameter.param_type_name for parameter in command.params}
        words = ["nowhere.h5"] if "argument" in kinds.values() else []
        # A config that is missing ends every command before any work.
        ending = ["--config", "nowhere"] if "config" in kinds else []
        for parameter in command.params:
            if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False):
                clean(name, *words, *ending, parameter.opts[0], NASTY + LONG)


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text in (
        f'"{printable(NASTY, None)}": 1',
        f'name: "\\e[2J{LONG}"',
        f"seed: {LONG}",
        "model: {" + LONG,
        f"{LONG}: 1\n{LONG}: 2",
    ):
        file.write_text(text)
        ran = clean("reproduce", "--config", file, "--dry-run")
        assert ran.code == 2


# The printer ----------------------------------------------------------------------------------------


def test_text_is_one_short_line() -> None:
    text = printable(NASTY + HALF + LONG)
    assert text.isprintable() and len(text) <= MAX_LINE and "\\x1b]0;pwned\\x07" in text and text.endswith("AAA")
    assert printable(NASTY + HALF + LONG, limit=None).endswith("\\ud800" + LONG)
    assert printable("zwölf × 字 → ε") == "zwölf × 字 → ε"
    assert join_lines(["a\nb", "c"]) == "a\\nb\nc"
    assert len(f"process 12345: error: {UserError(LONG)}") <= MAX_LINE


def test_json_has_no_length_and_no_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"text": NASTY + HALF + LONG, "numbers": [float("nan"), float("inf"), 1.5]})
    told = capsys.readouterr().out
    assert told.isascii() and all(line.isprintable() for line in told.splitlines())
    assert json.loads(told) == {"text": NASTY + HALF + LONG, "numbers": [None, None, 1.5]}


def test_what_libraries_say_is_printed_like_everything_else() -> None:
    import logging

    group = typer.Typer(cls=OneLineErrors)

    @group.command()
    def say() -> None:
        warnings.warn(NASTY + LONG, stacklevel=1)
        logging.getLogger("some library").warning(NASTY + LONG)

    @group.command()
    def other() -> None:
        """A second one, so that there are commands."""

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = CliRunner().invoke(group, ["say"], catch_exceptions=False)
    check_clean(Ran(ran.exit_code, ran.stdout, ran.stderr), "say")
    assert ran.exit_code == 0 and "note: UserWarning: " in ran.stderr


def test_the_traceback_of_a_bug_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError(NASTY + LONG)
    except KeyError as error:
        console.log_traceback(error)
    told = capsys.readouterr().err
    check_clean(Ran(1, "", told), "traceback")
    assert told.startswith("Traceback (most recent call last):")


def test_a_name_in_another_encoding(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    clean("info", tmp_path / f"{name}.h5")
    clean("make-dataset", "det", "--data", tmp_path / name)


def test_shards(tmp_path: Path) -> None:
    make("det", tmp_path / "det.h5", "--set", "synthesis.det.batch_size=20", "--shard", "1/2")
    (shard,) = tmp_path.glob("*.h5")
    clean("merge", shard, "--out", tmp_path / f"{NASTY}.h5")
    clean("info", shard)
