"""Folders that somebody sent: tampered datasets, forged results, sums, and settings of libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import h5py

from reliability.crafted_breaks import BREAKS, ESCAPES
from reliability.crafted_case import ANY, FINE, NOT_FINE, Case, Place, Run, Step, case
from reliability.crafted_datasets import beside, edited, seal
from reliability.crafted_folders import given
from reliability.crafted_models import read_parts, write_parts
from reliability.crafted_records import words_of
from reliability.crafted_world import SOURCE

# Tampering -----------------------------------------------------------------------------------------


def _tampered(place: Place) -> Path:
    """Pixels and labels changed, and the recorded digest left as it was."""
    given(place)
    path = place.work / "a.h5"
    with h5py.File(path, "r+", locking=False) as file:
        images = file["images"][()]
        images[0, 0, 0, 0] ^= 1
        file["images"][...] = images
        file["labels"][1] = (file["labels"][1] + 3) % 10
    return path


def _tampering() -> Iterator[Case]:
    for name, words in {
        "diff": ("diff", "a.h5", "good.h5"), "diff-other": ("diff", "good.h5", "a.h5", "--json"),
        "remake": ("remake", "a.h5", "--source", SOURCE), "verify": ("verify", "a.h5"),
        "share": ("share", "a.h5", "--source", SOURCE),
    }.items():  # fmt: skip
        yield case(f"shared/tampered, digest left/{name}", words, lambda place: [_tampered(place), None][1], NOT_FINE)

    def sealed(place: Place) -> None:
        with h5py.File(_tampered(place), "r+", locking=False) as file:
            seal(file)

    for name, words in {
        "diff": ("diff", "a.h5", "good.h5"),
        "remake of tampered": ("remake", "a.h5", "--source", SOURCE),
    }.items():
        yield case(f"shared/tampered, digests agree/{name}", words, sealed, NOT_FINE)

    def stale(place: Place) -> None:
        """Results kept for the digest that the file records, which is not that of what it holds."""
        _tampered(place)
        place.give("evaluated")

    yield case(
        "shared/tampered, results kept/evaluate", ("evaluate", "a.h5", "--config", "tiny.yaml", "--out", "evaluated"),
        stale,
        check=lambda place,
        run: "results of other contents are shown" if run.code == 0 and b"training" not in run.err else "",
    )  # fmt: skip

    def partly(place: Place) -> None:
        beside(place)
        edited(place, "det.h5", _partly_unknown)

    yield case("shared/verify of a file whose source_pred is partly -1", ("verify", "a.h5"), partly, frozenset({FINE}))


def _partly_unknown(file: h5py.File) -> None:
    """A third of the predictions unknown, the success rate that of the others, as docs/format.md allows."""
    predictions = file["source_pred"][()]
    predictions[::3] = -1
    file["source_pred"][...] = predictions
    known = predictions >= 0
    file.attrs["success_rate"] = float((predictions[known] == file["labels"][()][known]).mean())


# Forged results ------------------------------------------------------------------------------------


def _forge(place: Place, folder: str) -> None:
    """A folder with models whose records claim an accuracy of 98.7 %."""
    given(place)
    place.give("evaluated", folder)
    for path in sorted((place.work / folder).rglob("*.safetensors")):
        _claim(path)


def _claim(path: Path) -> None:
    header, content = read_parts(path)
    record = json.loads(header["__metadata__"]["featuregen"])
    accuracy = record["record"].get("accuracy") or {}
    record["record"]["accuracy"] = accuracy | {"clean": 0.98765, "l2": {"0.5": 0.98765}, "linf": {"0.1": 0.98765}}
    record["record"]["train_accuracy"] = 0.98765
    header["__metadata__"]["featuregen"] = json.dumps(record)
    write_parts(path, header, content)


def not_believed(place: Place, run: Run) -> str:
    shown = b"98.8" in run.out or b"98.77" in run.out or b"0.98765" in run.out
    told = b"found" in run.err.lower() or b"not made here" in run.err.lower()
    return "results of a forged file are shown as measured" if shown and run.code == 0 and not told else ""


def _forged() -> Iterator[Case]:
    for name, words in {
        "evaluate": ("evaluate", "a.h5", "--config", "tiny.yaml"),
        "evaluate-json": ("evaluate", "a.h5", "--config", "tiny.yaml", "--json"),
        "evaluate-recorded": ("evaluate", "a.h5"),
    }.items():  # fmt: skip
        yield case(
            f"shared/forged models in datasets_out/{name}", words, lambda place: _forge(place, "datasets_out"),
            check=not_believed,
            may_change=("datasets_out/*",),
        )  # fmt: skip

    def source(place: Place) -> None:
        given(place)
        _claim(place.work / SOURCE)

    yield case("shared/forged accuracy of a model/evaluate", ("evaluate", SOURCE), source, check=not_believed)

    def run_folder(place: Place) -> None:
        given(place)
        place.give("run", "datasets_out")
        for path in sorted((place.work / "datasets_out/models").glob("*.safetensors")):
            _claim(path)

    yield case(
        "shared/forged models of a run/reproduce", ("reproduce", "--config", "tiny.yaml"), run_folder,
        check=not_believed,
        may_change=("datasets_out/*",),
    )  # fmt: skip


# What lies beside a file ---------------------------------------------------------------------------

_SUMS: dict[str, tuple[Callable[[str], bytes], frozenset[int]]] = {
    "right": (lambda good: f"{good}  a.h5\n".encode(), frozenset({0})),
    "wrong": (lambda good: f"{'0' * 64}  a.h5\n".encode(), NOT_FINE),
    "second line wrong": (lambda good: f"{good}  a.h5\n{'0' * 64}  a.h5\n".encode(), NOT_FINE),
    "second line wrong, ./": (lambda good: f"{good}  a.h5\n{'0' * 64}  ./a.h5\n".encode(), NOT_FINE),
    "second line wrong, other blanks": (lambda good: f"{good}  a.h5\n{'0' * 64} *a.h5\n".encode(), NOT_FINE),
    "byte-order mark, wrong": (lambda good: b"\xef\xbb\xbf" + f"{'0' * 64}  a.h5\n".encode(), NOT_FINE),
    "utf-16, wrong": (lambda good: f"{'0' * 64}  a.h5\n".encode("utf-16"), NOT_FINE),
    "BSD style right": (lambda good: f"SHA256 (a.h5) = {good}\n".encode(), ANY),
    "BSD style wrong sum": (lambda good: f"SHA256 (a.h5) = {'0' * 64}\n".encode(), NOT_FINE),
    "BSD sha512": (lambda good: f"SHA512 (a.h5) = {'0' * 128}\n".encode(), ANY),
    "escaped name": (lambda good: f"\\{'0' * 64}  a.h5\n".encode(), NOT_FINE),
    "crlf, wrong": (lambda good: f"{'0' * 64}  a.h5\r\n".encode(), NOT_FINE),
    "upper case, right": (lambda good: f"{good.upper()}  a.h5\n".encode(), frozenset({0})),
    "no newline, wrong": (lambda good: f"{'0' * 64}  a.h5".encode(), NOT_FINE),
    "line separator in a name": (lambda good: f"{good}  a.h5\n{'0' * 64}  x\u2028{'0' * 64}  a.h5\n".encode(), ANY),
    "esc": (lambda good: f"{good}  a.h5\n{'0' * 64}  {ESCAPES}\n".encode(), ANY),
    "binary": (lambda good: bytes(range(256)) * 40, ANY),
    "2 MB": (lambda good: b"x" * 2_000_000, ANY), "too short": (lambda good: f"{'0' * 63}  a.h5\n".encode(), ANY),
    "a tab": (lambda good: f"{'0' * 64}\ta.h5\n".encode(), ANY),
}  # fmt: skip


def _sums() -> Iterator[Case]:
    for name, (content, codes) in _SUMS.items():

        def prepare(place: Place, content: Callable[[str], bytes] = content) -> None:
            given(place)
            good = sha256((place.work / "a.h5").read_bytes()).hexdigest()
            place.write("SHA256SUMS", content(good))

        for command in (("verify", "a.h5"), ("verify", "a.h5", "--data", "digits", "--source", SOURCE)):
            yield case(f"sums/{name}/{len(command)}", command, prepare, codes)
    for name, make in _SPECIAL.items():

        def special(place: Place, make: Callable[[Place, str], object] = make) -> None:
            given(place)
            make(place, "SHA256SUMS")

        yield case(f"sums/SHA256SUMS is {name}/verify", ("verify", "a.h5"), special)


_SPECIAL: dict[str, Callable[[Place, str], object]] = {
    "a FIFO": lambda place, name: place.fifo(name), "a folder": lambda place, name: (place.work / name).mkdir(),
    "a link to a device": lambda place, name: place.link(name, Path("/dev/zero")), "a link to nothing": lambda place,
    name: place.link(name, place.outside / "no"),
    "a link to itself": lambda place, name: place.link(name, place.work / name),
}  # fmt: skip


def _results() -> Iterator[Case]:
    """A results.json beside the file, of which `share` puts the numbers on the card."""
    texts = {name: text for name, text in BREAKS.items() if name not in ("gone",)}
    for name, text in texts.items():
        for where in ("clean", "classes", "whole", "row"):

            def prepare(place: Place, text: str = text, where: str = where) -> None:
                given(place)
                record = (place.world / "run/tiny/results.json").read_text(encoding="utf-8")
                place.write("results.json", _with(record, where, text).encode("utf-8", "surrogatepass"))

            if where in ("clean", "whole") or name in (
                "esc",
                "bidi",
                "huge-int",
                "long-texts",
                "deep",
                "markup",
                "lines",
            ):
                yield case(f"shared/results.json: {where} {name}/share", ("share", "a.h5", "--source", SOURCE), prepare)
                yield case(
                    f"shared/results.json: {where} {name}/share --results",
                    ("share", "a.h5", "--source", SOURCE, "--results", "results.json"), prepare,
                )  # fmt: skip
    for name, make in _SPECIAL.items():

        def special(place: Place, make: Callable[[Place, str], object] = make) -> None:
            given(place)
            make(place, "results.json")

        yield case(f"shared/results.json is {name}/share", ("share", "a.h5", "--source", SOURCE), special)


def _with(text: str, where: str, broken: str) -> str:
    if where == "whole":
        return broken
    tree = json.loads(text)
    key = {"clean": "clean", "classes": "name", "row": "trained_on"}[where]
    count = 0

    def replace(node: object) -> object:
        nonlocal count
        if isinstance(node, dict):
            if key in node:
                count += 1
            return {name: "@@" if name == key else replace(value) for name, value in node.items()}
        return [replace(value) for value in node] if isinstance(node, list) else node

    return json.dumps(replace(tree)).replace('"@@"', broken)


# Each writes a canary where it runs, or prints escapes, where matplotlib reads it.
_STYLES = {
    "code": "axes.prop_cycle: cycler('color', [__import__('os').system('touch ../o/ran') and 'r' or 'r'])\n",
    "esc": f"font.family: {ESCAPES}\n{ESCAPES}: 1\n", "nonsense": "hello\n\xff: x: y\n",
    "a backend": "backend: nosuch\n",
    "latex": "text.usetex: True\n", "huge": "figure.dpi: 1e9\n", "a FIFO": "",
}  # fmt: skip


def _styles() -> Iterator[Case]:
    """A file `matplotlibrc` in a received folder, in which a command is run by a Python of its own."""
    for name, content in _STYLES.items():

        def prepare(place: Place, name: str = name, content: str = content) -> None:
            given(place)
            place.fifo("matplotlibrc") if name == "a FIFO" else place.write(
                "matplotlibrc", content.encode("latin-1", "replace")
            )

        for command in ("verify", "preview", "info", "share", "evaluate"):
            step = Step(words_of(command), frozenset({FINE}), process=True)
            yield Case(f"shared/matplotlibrc: {name}/{command}", (step,), prepare)


def by_hand() -> Iterator[Case]:
    yield from _tampering()
    yield from _forged()
    yield from _sums()
    yield from _styles()
    yield from _results()
