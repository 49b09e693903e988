"""Settings in YAML as others write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from reliability.crafted_case import FINE_OR_REFUSED, Case, Place, case
from reliability.crafted_world import CONFIG

_YAML: dict[str, bytes] = {
    "binary": b"seed: 0x" + b"f" * 5000, "binary digits": b"seed: 0b" + b"1" * 20_000,
    "octal": b"seed: 0" + b"7" * 6000,
    "sexagesimal": b"evaluation: {seeds: 1:1:1:1}", "sexagesimal float": b"sources: {standard: {lr: 1:30.5}}",
    "underscores": b"seed: 1_000", "norway": b"data: {name: no}", "a date": b"name: 2026-01-01",
    "no yaml": b"\xff\xfe\x00",
    "bytes": b"\x00\x01\x02", "tag": b"!!python/object/apply:os.system ['touch ../o/ran']",
    "decimal": b"seed: " + b"9" * 5000,
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n,
            b",".join([b"*%c" % (97 + n)] * 9)) for n in range(12)),
    "deep": b"a: " + b"[" * 5000, "deep blocks": b"- " * 3000 + b"x", "escape": b'name: "\\x1b]0;pwned\\x07\\x1b[2J"',
    "bidi key": "\u202eabc: 1".encode(),
    "1MB key": b"k" * 1_000_000 + b": 1", "1MB value": b"name: " + b"v" * 1_000_000, "list": b"- 1\n- 2",
    "text": b"hello", "empty": b"", "null": b"~",
    "twice": b"seed: 1\nseed: 2", "merge": b"<<: 5", "tilde data": b"data: {name: ~nosuch/x.npz}",
    "fifo data": b"data: {name: fifo}",
    "nan": b"sources: {standard: {lr: .nan}}", "inf": b"sources: {standard: {lr: .inf}}",
    "eps long": b"evaluation: {l2: [" + b"0.5," * 100_000 + b"0.5]}",
    "steps": b"evaluation: {steps: 1000000000000}", "restarts": b"evaluation: {restarts: 1000000000000}",
    "width": b"model: {width: 4096000000}",
    "batch": b"evaluation: {batch_size: 1000000000000}", "jobs": b"runtime: {jobs: 1000000000000}",
    "threads": b"runtime: {threads: 1000000000000}",
    "mean": b"model: {mean: [" + b"9" * 400 + b"], std: [1]}", "kind escape": b'synthesis: {"\\e[2J": {}}',
    "anchor": b"&" + b"a" * 200_000 + b" x: 1",
}  # fmt: skip


def by_hand() -> Iterator[Case]:
    for name, content in _YAML.items():

        def prepare(place: Place, content: bytes = content) -> None:
            place.write("c.yaml", content)
            place.give("det.h5")
            place.fifo("fifo")

        for command, words in {
            "dry-run": ("reproduce", "--config", "c.yaml", "--dry-run"),
            "evaluate": ("evaluate", "det.h5", "--config", "c.yaml", "--epochs", "1", "--seeds", "1"),
            "make": ("make-dataset", "det", "--config", "c.yaml", "--rows", "10", "--steps", "1", "--shard", "9/9"),
        }.items():  # fmt: skip
            if command == "dry-run" or len(content) > 60 or b"seed" in content:
                yield case(f"yaml/{name}/{command}", words, prepare, FINE_OR_REFUSED)


def drawn(random: Random, world: Path) -> Case:
    """Settings with one value replaced by a number or text as others write them."""
    value = random.choice((b"0x1f", b"0o17", b"017", b"1e3", b"1_0", b"1:30", b".5", b"+5", b"5.", b"~", b"''", b"[]",
            b"{}", b"yes", b"-0",
                           b"1e400", b"9" * 4301, b"8/255", b"1/0", b"nan", b"'\\e'", b"&a b", b"*a", b"!!str 5",
                           b"!!binary aGk=", b"\xc2\xa05"))  # fmt: skip
    lines = CONFIG.strip().splitlines()
    number = random.randrange(len(lines))
    parts = lines[number].split(": ")
    which = random.randrange(1, len(parts)) if len(parts) > 1 else 0
    rest = parts[which].lstrip("0123456789.")[:] if which else ""
    parts[which] = value.decode("utf-8") + rest
    text = "\n".join([*lines[:number], ": ".join(parts), *lines[number + 1 :]])
    command = random.choice(
        (
            ("reproduce", "--config", "c.yaml", "--dry-run"),
            ("make-dataset", "det", "--config", "c.yaml", "--rows", "10", "--steps", "1"),
        )
    )
    return case(
        f"yaml/~{number}-{which}-{value[:12].decode()}/{command[0]}", command, lambda place: place.write("c.yaml", text)
    )
