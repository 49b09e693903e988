"""Every option of every command with odd values, and every argument that takes a path with odd paths."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from reliability.crafted_breaks import ESCAPES
from reliability.crafted_case import ANY, ONLY_REFUSED, Case, Place, case
from reliability.crafted_world import ATTACK, SOURCE

# A quick use of every command; the option under test comes last.
BASE: dict[str, tuple[str, ...]] = {
    "make-robust-dataset": ("--config", "tiny.yaml", "--source", "adversarial.safetensors", "--out", "o.h5", "--rows",
        "10", "--set", "synthesis.robust.steps=1"),
    "make-dataset": ("det", "--config", "tiny.yaml", "--source", SOURCE, "--out", "o.h5", "--force", "--rows", "10",
        "--steps", "1"),
    "merge": ("shard-1.h5", "shard-2.h5", "--out", "m.h5"),
    "train": ("--standard", "--config", "tiny.yaml", "--out", "t.safetensors"),
    "evaluate": ("good.h5", "--config", "tiny.yaml"), "reproduce": ("--config", "tiny.yaml", "--dry-run"),
    "transfer": ("--config", "tiny.yaml", "--models", "convnet:4", "--seeds", "1"), "attack": (SOURCE, *ATTACK),
    "attacks": (),
    "flips": (SOURCE, "--eps", "0.1", "--rows", "20", "--attacks", "fgsm"), "info": ("good.h5",),
    "preview": ("good.h5",),
    "verify": ("good.h5",), "remake": ("good.h5", "--source", SOURCE), "diff": ("good.h5", "good.h5"),
    "share": ("good.h5", "--source", SOURCE), "models": (),
    "import": ("released", "--kind", "det", "--config", "tiny.yaml", "--within", "5", "--out", "i.h5"),
    "export": ("good.h5", "--format", "npz"),
}  # fmt: skip
_GIVEN = ("tiny.yaml", SOURCE, "adversarial.safetensors", "shard-1.h5", "shard-2.h5", "released")

VALUES = (
    "", " ", "-1", "0", "1", "-0", "+5", "5.5", "1e3", "1e400", "1_0", "\u0661", "0x10", "0o17", "2147483648",
    "4294967296",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1000000000000", "9" * 400, "9" * 5000,
    "0x" + "f" * 5000,
    "nan", "inf", "-inf", "1/0", "8/255", "1/3/5", "0.5,", ",", ",,", "none", "null", "true", "[]", "{}", "[0.5", "a=b",
    "=", "a=", "=b",
    "l2", "LINF", "det", "--", "--help", "@x", "x" * 3000, "w " * 1500, "a\nb", "a\tb", ESCAPES, "\u202eabc",
    "caf\udce9", "\x7f",
    "\u2028", "%s%n", "{0}", "$HOME", "~nosuch/x", "../../x", "/dev/null", "cuda", "cuda:99", "cuda:-1", "cpu:7", "mps",
    "meta", "1/2", "2/1",
    "0/0", "1/99999999999", "cifar10-paper", "digits", "convnet:99999999", "convnet:0", "resnet50", "clean",
)  # fmt: skip
# Keys of settings, with values as somebody types them.
KEYS = (
    "seed", "name", "model.width", "model.architecture", "model.mean", "model.std", "runtime.threads", "runtime.jobs",
    "runtime.device",
    "runtime.save_every", "sources.seeds", "sources.standard.epochs", "sources.standard.batch_size",
    "sources.standard.lr",
    "sources.standard.milestones", "sources.standard_from", "sources.robust.attack.eps", "sources.robust.attack.steps",
    "synthesis.det.steps",
    "synthesis.det.eps", "synthesis.det.rows", "synthesis.det.batch_size", "synthesis.det", "synthesis", "fresh.det",
    "fresh.det.epochs",
    "fresh", "evaluation", "evaluation.l2", "evaluation.linf", "evaluation.seeds", "evaluation.restarts",
    "evaluation.steps", "evaluation.rows",
    "evaluation.batch_size", "evaluation.headline", "honesty.eps", "honesty.rows", "data.name", "data.folder", "nosuch",
    "", "a" * 3000,
    f"x{ESCAPES}", "model.mean.0", "__class__", "model..width", ".seed",
)  # fmt: skip
SETTINGS = (
    "0x" + "f" * 5000, "1:1:1:1", "0b" + "1" * 20_000, "[", "[[[[", "{a: b}", "[1,2,3]", "&a [*a]",
    "!!python/name:os.system", "9" * 5000,
    "[" * 3000, "[" + "0.5," * 20_000 + "0.5]", "2026-01-01", "no", "~", "", "a: b: c", "1e12", "1000000000000", "-1",
    ".nan", ".inf", "07",
    "l2", "'", '"\\e[2J"', "\x1b[2J", "\u202ex", "caf\udce9", "{a: 1, a: 2}", "100000", "1e-320", "8/255", "[8/255]",
    "1/0",
)  # fmt: skip


def _prepare(place: Place) -> None:
    place.give("det.h5", "good.h5")
    for name in _GIVEN:
        place.give(name)


def _safe(text: str) -> str:
    shown = "".join(letter if letter.isprintable() and letter != "/" else f"\\x{ord(letter):02x}" for letter in text)
    return shown if len(shown) <= 50 else f"{shown[:30]}({len(text)})"


def _option_cases(commands: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for command, parameters in commands.items():
        base = (command, *BASE.get(command, ()))
        for parameter in parameters:
            option = parameter["options"][0]
            if parameter["argument"] or option in ("--help", "--set"):
                continue
            # Nothing is ever written to a place of this machine, whatever the command under test does.
            values = [value for value in VALUES if option != "--out" or not value.startswith(("/", ".."))]
            found += [
                (f"{command} {option} {_safe(value)}", (*base, *_given(option, parameter, value))) for value in values
            ]
        if any(parameter["options"][0] == "--set" for parameter in parameters):
            for key in KEYS:
                found += [
                    (f"{command} --set {_safe(key)}={_safe(value)}", (*base, "--set", f"{key}={value}"))
                    for value in SETTINGS
                ]
        found += [(f"{command} {_safe(value)}", (*base, value)) for value in VALUES]
    return found


def _given(option: str, parameter: Mapping[str, Any], value: str) -> tuple[str, ...]:
    return (f"{option}={value}",) if parameter["flag"] or value.startswith("-") else (option, value)


def by_hand(commands: Mapping[str, list[dict[str, Any]]]) -> Iterator[Case]:
    for name, words in _NAMED.items():
        yield case(f"options/{name}", words, _prepare, ANY)
    yield from _path_cases()


_DRY = ("reproduce", "--config", "tiny.yaml", "--dry-run", "--set")
_MAKE = ("make-dataset", *BASE["make-dataset"])
# Without a source, one is trained and evaluated first.
_TRAIN_AND_MAKE = ("make-dataset", "det", "--config", "tiny.yaml", "--out", "o.h5", "--rows", "10", "--steps", "1")
_NAMED: dict[str, tuple[str, ...]] = {
    **{f"reproduce --dry-run --set {key}=0xff… (5000)": (*_DRY, f"{key}=0x" + "f" * 5000)
       for key in ("sources.seeds", "fresh.det", "evaluation", "evaluation.l2", "evaluation.linf", "evaluation.seeds",
           "evaluation.restarts", "honesty.eps")},
    "reproduce --dry-run --set evaluation.seeds=1:1:1:1": (*_DRY, "evaluation.seeds=1:1:1:1"),
    "reproduce --seeds 100000 --dry-run": ("reproduce", "--config", "tiny.yaml", "--seeds", "100000", "--dry-run"),
    "reproduce --seeds 100000 --dry-run, shipped": ("reproduce", "--seeds", "100000", "--dry-run"),
    "reproduce --config cifar10-paper --dry-run": ("reproduce", "--config", "cifar10-paper", "--dry-run"),
    "make-dataset --set evaluation.l2=99… (5000)": (*_MAKE, "--set", "evaluation.l2=" + "9" * 5000),
    "make-dataset --set seed=99… (5000)": (*_MAKE, "--set", "seed=" + "9" * 5000),
    "make-dataset --set synthesis.det.batch_size=2147483647": (*_MAKE, "--set", "synthesis.det.batch_size=2147483647"),
    "make-dataset --set synthesis.det.steps=1e12": (*_MAKE, "--set", "synthesis.det.steps=1000000000000"),
    **{f"make-dataset --set {key}={value[:13]}, no source": (*_TRAIN_AND_MAKE, "--set", f"{key}={value}")
       for key, value in (("evaluation.restarts", "1000000000000"), ("evaluation.steps", "1000000000000"),
           ("evaluation.l2", "[" + "0.5," * 20_000 + "0.5]"), ("runtime.threads", "1024"))},
    "make-dataset --seed 99… (5000)": (*_MAKE, "--seed", "9" * 5000),
    "make-dataset --steps 99… (5000)": (*_MAKE, "--steps", "9" * 5000),
    "make-dataset --rows 99… (5000)": (*_MAKE, "--rows", "9" * 5000),
    "make-dataset --step-size 99… (5000)": (*_MAKE, "--step-size", "9" * 5000),
    "make-dataset --eps 99… (5000)": (*_MAKE, "--eps", "9" * 5000), "make-dataset --steps 0": (*_MAKE[:-1], "0"),
    "make-dataset --shard 99… (5000)": (*_MAKE, "--shard", "9" * 5000 + "/" + "9" * 5000),
    "make-dataset --seed 1000000000000": (*_MAKE, "--seed", "1000000000000"),
    "make-dataset --steps 1000000000000": (*_MAKE, "--steps", "1000000000000"),
    "attack --set c=99…": ("attack", SOURCE, "--attack", "lbfgs", "--rows", "10", "--set", "c=" + "9" * 400),
    "models nothing": ("models",), "attacks nothing": ("attacks",), "no such command": ("nosuch" + ESCAPES,),
    "only a dash": ("-",),
}  # fmt: skip


def drawn(random: Random, commands: Mapping[str, list[dict[str, Any]]]) -> Case:
    if not _DRAWN:
        _DRAWN.extend(_option_cases(commands))
    name, words = random.choice(_DRAWN)
    if "\0" in "".join(words):
        raise ValueError("no command gets null characters")
    return case(f"options/~{name}", words, _prepare)


_DRAWN: list[tuple[str, tuple[str, ...]]] = []


# Odd paths -----------------------------------------------------------------------------------------


def _socket(place: Place) -> None:
    # The name of a socket has at most 107 characters.
    here = os.getcwd()
    os.chdir(place.work)
    try:
        socket.socket(socket.AF_UNIX).bind("s.h5")
    finally:
        os.chdir(here)


def _folder(place: Place) -> None:
    for name in ("d.h5", "d.yaml", "d"):
        (place.work / name).mkdir()


def _closed(place: Place) -> None:
    place.write("closed.h5", b"x").chmod(0)


_LONG = "x" * 5000
ODD_PATHS: dict[str, tuple[str, Callable[[Place], object] | None]] = {
    "fifo.h5": ("fifo.h5", lambda place: place.fifo("fifo.h5")), "fifo": ("fifo", lambda place: place.fifo("fifo")),
    "fifo.npz": ("fifo.npz", lambda place: place.fifo("fifo.npz")),
    "fifo.safetensors": ("fifo.safetensors", lambda place: place.fifo("fifo.safetensors")),
    "fifo.pt": ("fifo.pt", lambda place: place.fifo("fifo.pt")), "a socket": ("s.h5", _socket),
    "a folder .h5": ("d.h5", _folder), "a folder": ("d", _folder), "nothing": ("", None),
    "a space": (" ", None), "the folder": (".", None), "the parent": ("..", None), "the root": ("/", None),
    "slash": ("good.h5/", None), "slash below a file": ("good.h5/x.h5", None),
    "tilde": ("~nosuch/x.npz", None), "tilde only": ("~nosuch", None), "tilde .h5": ("~nosuch/x.h5", None),
    "long": (_LONG, None), "long .h5": ("x" * 300 + ".h5", None),
    "long folders": ("d/" * 3000 + "x.h5", None), "esc": ("a\x1b[2Jb.npz", None), "esc .h5": ("a\x1b[2Jb.h5", None),
    "long esc": ("x\x1b" + "y" * 5000, None),
    "bidi": ("\u202ea.h5", None), "newline": ("a\nb.h5", None), "latin-1": ("caf\udce9.h5", None),
    "latin-1 there": ("caf\udce9.h5", lambda place: place.write("caf\udce9.h5", b"x")),
    "esc there": ("a\x1b[2Jb.h5", lambda place: place.write("a\x1b[2Jb.h5", b"x")), "missing": ("missing.h5", None),
    "missing folder": ("no/such/x.h5", None), "empty file": ("empty.h5", lambda place: place.write("empty.h5", b"")),
    "text": ("text.h5", lambda place: place.write("text.h5", b"hello")), "zero device": ("/dev/zero", None),
    "null device": ("/dev/null", None), "full device": ("/dev/full", None),
    "stdin": ("/dev/stdin", None), "proc": ("/proc/self/mem", None), "a process's folder": ("/proc/self/fd", None),
    "a link to itself": ("loop.h5", lambda place: place.link("loop.h5", place.work / "loop.h5")),
    "a link to nothing": ("dangling.h5", lambda place: place.link("dangling.h5", place.outside / "no")),
    "a link to a device": ("zero.h5", lambda place: place.link("zero.h5", Path("/dev/zero"))),
    "a dash": ("-", None), "an option": ("--json", None), "no permission": ("closed.h5", _closed),
    "url": ("https://localhost:1/x.h5", None), "glob": ("*.h5", None),
    "dotted": ("./good.h5/../good.h5/", None), "windows": ("C:\\x.h5", None), "percent": ("%n%s.h5", None),
    "a file of a tree": ("d.h5/../nosuch.h5", _folder), "deleted": ("/proc/self/cwd/no.h5", None),
}  # fmt: skip
# Where each command takes a path; P stands for it.
PATH_USES: dict[str, tuple[str, ...]] = {
    "info": ("info", "P"), "verify": ("verify", "P"), "remake": ("remake", "P"),
    "share": ("share", "P", "--without-source"), "evaluate": ("evaluate", "P"),
    "preview": ("preview", "P"), "export": ("export", "P", "--format", "npz"),
    "export a model": ("export", "P", "--format", "robustness"), "diff": ("diff", "P", "good.h5"),
    "diff second": ("diff", "good.h5", "P"), "attack": ("attack", "P", *ATTACK),
    "flips": ("flips", "P", "--eps", "0.1"), "import": ("import", "P", "--kind", "det"),
    "merge": ("merge", "P", "shard-2.h5", "--out", "m.h5"),
    "train --on": ("train", "--on", "P", "--out", "t.safetensors"),
    "attack --from": ("attack", SOURCE, "--from", "P", *ATTACK), "verify --data": ("verify", "good.h5", "--data", "P"),
    "make-dataset --data": ("make-dataset", "det", "--data", "P", "--config", "tiny.yaml", "--out", "o.h5"),
    "train --data": ("train", "--data", "P", "--config", "tiny.yaml", "--out", "t.safetensors"),
    "attack --data": ("attack", SOURCE, *ATTACK, "--data", "P"),
    "evaluate --data": ("evaluate", "good.h5", "--data", "P"),
    "reproduce --data": ("reproduce", "--data", "P", "--config", "tiny.yaml", "--dry-run"),
    "share --data": ("share", "good.h5", "--source", SOURCE, "--data", "P"),
    "remake --data": ("remake", "good.h5", "--data", "P"),
    "preview --data": ("preview", "good.h5", "--data", "P"),
    "flips --data": ("flips", SOURCE, "--eps", "0.1", "--data", "P"),
    "transfer --data": ("transfer", "--data", "P", "--config", "tiny.yaml", "--models", "convnet:4"),
    "import --data": ("import", "released", "--kind", "det", "--data", "P", "--out", "i.h5"),
    "verify --source": ("verify", "good.h5", "--data", "digits", "--source", "P"),
    "remake --source": ("remake", "good.h5", "--source", "P"),
    "share --source": ("share", "good.h5", "--source", "P"),
    "make-dataset --source": ("make-dataset", "det", "--config", "tiny.yaml", "--source", "P", "--out", "o.h5"),
    "reproduce --standard-from": ("reproduce", "--config", "tiny.yaml", "--standard-from", "P", "--dry-run"),
    "reproduce --config": ("reproduce", "--dry-run", "--config", "P"),
    "train --config": ("train", "--config", "P", "--out", "t.safetensors", "--epochs", "1"),
    "share --results": ("share", "good.h5", "--source", SOURCE, "--results", "P"),
    "--plugin": ("--plugin", "P", "models"), "make-dataset --out": (*_MAKE, "--out", "P"),
    "train --out": ("train", "--standard", "--config", "tiny.yaml", "--out", "P"),
    "preview --out": ("preview", "good.h5", "--out", "P"),
    "share --out": ("share", "good.h5", "--source", SOURCE, "--out", "P"),
    "export --out": ("export", "good.h5", "--format", "imagefolder", "--out", "P"),
    "npz --out": ("export", "good.h5", "--format", "npz", "--out", "P"),
    "remake --out": ("remake", "good.h5", "--source", SOURCE, "--out", "P"),
    "merge --out": ("merge", "shard-1.h5", "shard-2.h5", "--out", "P"),
    "attack --out": ("attack", SOURCE, *ATTACK, "--out", "P"),
    "flips --out": ("flips", SOURCE, "--eps", "0.1", "--rows", "20", "--attacks", "fgsm", "--out", "P"),
    "evaluate --out": ("evaluate", "good.h5", "--config", "tiny.yaml", "--out", "P"),
    "import --out": ("import", "released", "--kind", "det", "--config", "tiny.yaml", "--within", "5", "--out", "P"),
    "reproduce --out": ("reproduce", "--config", "tiny.yaml", "--dry-run", "--out", "P"),
    "transfer --out": ("transfer", "--config", "tiny.yaml", "--models", "convnet:4", "--seeds", "1", "--out", "P"),
}  # fmt: skip
# Where an odd path may be meant: names of files to write, or of nothing.
_LENIENT = ("--out", "--config", "--results", "--plugin", "--data", "reproduce", "merge", "a file of a tree")


def _path_cases() -> Iterator[Case]:
    for use, words in PATH_USES.items():
        for name, (path, make) in ODD_PATHS.items():
            # Nothing is ever written to a place of this machine, whatever the command under test does.
            if "--out" in use and path.startswith(("/", "..")):
                continue

            def prepare(place: Place, make: Callable[[Place], object] | None = make) -> None:
                _prepare(place)
                if make:
                    make(place)

            given = tuple(path if word == "P" else word for word in words)
            codes = ANY if any(word in use for word in _LENIENT) else ONLY_REFUSED
            # An empty word is a script's variable that was never set.
            codes = ONLY_REFUSED if name == "nothing" else codes
            codes = ANY if name in ("dotted", "an option", "no permission", "slash", "glob") else codes
            yield case(f"paths/{use} {name}", given, prepare, codes)
