"""Damaged files of an earlier run: what `reproduce` and `evaluate` keep to go on from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability.crafted_accidents import JOBS, needs
from reliability.crafted_breaks import ESCAPES
from reliability.crafted_case import FINE_OR_REFUSED, Case, Place, Step


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    "list": lambda path: path.write_text("[1, 2]"), "number": lambda path: path.write_text("5"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00" * 20),
    "empty object": lambda path: path.write_text("{}"), "deep": lambda path: path.write_text("[" * 100_000),
    "null": lambda path: path.write_text("null"),
    "huge int": lambda path: path.write_text('{"seconds": ' + "9" * 5000 + "}"),
    "esc": lambda path: path.write_text('{"row": "' + "\\u001b[2J" + '"}'),
    "nan": lambda path: path.write_text('{"seconds": NaN, "row": NaN}'), "text": lambda path: path.write_text(ESCAPES),
    "a FIFO": lambda path: _instead(path, os.mkfifo), "a folder": lambda path: _instead(path, Path.mkdir),
    "a link to itself": lambda path: _instead(path, lambda path: path.symlink_to(path)),
    "a link to a device": lambda path: _instead(path, lambda path: path.symlink_to("/dev/zero")),
    "zeros": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "a bit": lambda path: path.write_bytes((data := path.read_bytes())[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
}  # fmt: skip
_KEPT = {
    "seconds": "out/tiny/seconds/det.json", "judged": "out/tiny/judged/det-*.json",
    "results.json": "out/tiny/results.json",
    "a model": "out/models/*.safetensors", "a dataset": "out/tiny/digits-det.h5", "report": "out/tiny/report.html",
    "arithmetic": "out/models/arithmetic.json", "halfway": "out/models/convnet.halfway",
    "a journal": "out/tiny/digits-det.h5.partial",
}  # fmt: skip


def by_hand() -> Iterator[Case]:
    for kept, pattern in _KEPT.items():
        for name, damage in DAMAGES.items():

            def prepare(
                place: Place, kept: str = kept, pattern: str = pattern, damage: Callable[[Path], object] = damage
            ) -> None:
                needs(place)
                place.give("run", "out")
                if kept != "results.json":
                    (place.work / "out/tiny/results.json").unlink()
                if kept == "halfway":
                    # One of the models is still in training.
                    model = min((place.work / "out/models").glob("*.safetensors"))
                    path = model.rename(model.with_suffix(".halfway"))
                elif kept == "a journal":
                    path = (place.work / "out/tiny/digits-det.h5").rename(place.work / pattern)
                elif kept == "arithmetic":
                    path = place.write(pattern, '{"x": {"precision": "fp32"}}')
                    config = (place.work / "tiny.yaml").read_text(encoding="utf-8")
                    place.write(
                        "tiny.yaml",
                        config.replace("precision: fp32, convolution: direct", "precision: auto, convolution: auto"),
                    )
                else:
                    path = min(place.work.glob(pattern))
                damage(path)

            words = ("reproduce", "--config", "tiny.yaml", "--out", "out")
            # A damaged dataset is refused, and so may be what is no file.
            yield Case(f"kept/{kept} {name}/reproduce", (Step(words, FINE_OR_REFUSED),), prepare, ("out/*",))
    for name, damage in DAMAGES.items():

        def cached(place: Place, damage: Callable[[Path], object] = damage) -> None:
            needs(place)
            place.give("evaluated", "out")
            damage(min(place.work.glob("out/models/*.safetensors")))

        yield Case(f"kept/a model {name}/evaluate", (Step(JOBS["evaluate"], FINE_OR_REFUSED),), cached, ("out/*",))
