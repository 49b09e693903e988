"""Model files whose metadata breaks one rule or whose weights are odd, and checkpoints that are small and vicious."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from reliability.crafted_breaks import ALL_BREAKS, broken, dotted, places
from reliability.crafted_case import ANY, NOT_FINE, ONLY_REFUSED, Case, Place, case
from reliability.crafted_pickles import checkpoints
from reliability.crafted_world import ATTACK, SOURCE

COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "m.safetensors"), "info-json": ("info", "m.safetensors", "--json"),
    "evaluate": ("evaluate", "m.safetensors"), "attack": ("attack", "m.safetensors", *ATTACK),
    "sanity": ("attack", "m.safetensors", "--sanity", "--eps", "0.5", "--rows", "20", "--set", "steps=4", "--set",
        "queries=20"),
    "flips": ("flips", "m.safetensors", "--eps", "0.1", "--rows", "20", "--attacks", "fgsm"),
    "make": ("make-dataset", "det", "--config", "tiny.yaml", "--source", "m.safetensors", "--out", "o.h5"),
    "verify": ("verify", "good.h5", "--source", "m.safetensors"),
    "share": ("share", "good.h5", "--source", "m.safetensors"),
    "remake": ("remake", "good.h5", "--source", "m.safetensors"),
    "robustness": ("export", "m.safetensors", "--format", "robustness"),
    "dry-run": ("reproduce", "--config", "tiny.yaml", "--standard-from", "m.safetensors", "--dry-run"),
    "reproduce": ("reproduce", "--config", "tiny.yaml", "--standard-from", "m.safetensors"),
    "train-out": ("train", "--standard", "--config", "tiny.yaml", "--out", "m.safetensors"),
    "from": ("attack", SOURCE, "--from", "m.safetensors", *ATTACK),
}  # fmt: skip


def read_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    end = 8 + struct.unpack_from("<Q", data)[0]
    return json.loads(data[8:end]), data[end:]


def write_parts(path: Path, header: dict[str, Any] | bytes, content: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


# A model of the same settings is what `train` was asked for: it is evaluated again, or trained again if damaged.
_CHANGED = {"train-out": ("m.safetensors",)}


def _beside(place: Place) -> None:
    for name in ("tiny.yaml", SOURCE):
        place.give(name)
    place.give("det.h5", "good.h5")
    place.fifo("fifo.h5")


def _with_record(place: Place, change: Callable[[Any], str]) -> None:
    _beside(place)
    header, content = read_parts(place.world / SOURCE)
    header["__metadata__"]["featuregen"] = change(json.loads(header["__metadata__"]["featuregen"]))
    write_parts(place.work / "m.safetensors", header, content)


def _with_weights(place: Place, change: Callable[[np.ndarray], Any]) -> None:
    """All tensors of floats changed; the recorded digest of the weights stays."""
    _beside(place)
    header, content = read_parts(place.world / SOURCE)
    data = bytearray(content)
    for name, entry in header.items():
        if name not in ("__metadata__", "mean", "std") and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(content[first:last], "<f4").copy()
            values[...] = change(values)
            data[first:last] = values.tobytes()
    write_parts(place.work / "m.safetensors", header, bytes(data))


_FIELDS: dict[str, tuple[tuple[str, ...], str]] = {
    "settings list": (("record", "settings"), "list"), "settings text": (("record", "settings"), "text"),
    "accuracy list": (("record", "accuracy"), "list"), "accuracy none": (("record", "accuracy"), "none"),
    "seconds list": (("record", "seconds"), "list"), "seconds text": (("record", "seconds"), "text"),
    "no seconds": (("record", "seconds"), "gone"), "train accuracy text": (("record", "train_accuracy"), "esc"),
    "train accuracy huge": (("record", "train_accuracy"), "huge-int"), "config list": (("record", "config"), "list"),
    "config none": (("record", "config"), "none"),
    "settings training list": (("record", "settings", "training"), "list"),
    "seed esc": (("record", "settings", "seed"), "esc"),
    "config data tilde": (("record", "config", "data", "name"), "tilde"),
    "origin": (("record", "origin"), "esc"), "data fifo": (("record", "config", "data", "name"), "fifo"),
    "base name esc": (("record", "base", "name"), "esc"), "architecture esc": (("architecture",), "esc"),
    "width 2^31": (("width",), "2-to-31"), "width text": (("width",), "text"), "classes 1e12": (("classes",), "1e12"),
    "shape huge": (("image_shape",), "huge-int"), "record list": (("record",), "list"),
    "record none": (("record",), "none"),
}  # fmt: skip
_WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "weights 0": lambda values: 0.0, "weights 1e30": lambda values: 1e30, "weights nan": lambda values: np.nan,
    "weights inf": lambda values: np.inf, "one nan": lambda values: np.where(np.arange(values.size) == 0, np.nan,
        values),
}  # fmt: skip


def by_hand() -> Iterator[Case]:
    for name, (path, break_name) in _FIELDS.items():

        def prepare(place: Place, path: Any = path, break_name: str = break_name) -> None:
            _with_record(place, lambda record: broken(record, tuple(path), break_name))

        for command, words in COMMANDS.items():
            yield case(f"models/record {name}/{command}", words, prepare, may_change=_CHANGED.get(command, ()))
    for name, change in _WEIGHTS.items():

        def prepare_weights(place: Place, change: Callable[[Any], Any] = change) -> None:
            _with_weights(place, change)

        for command, words in COMMANDS.items():
            yield case(f"models/{name}/{command}", words, prepare_weights, may_change=_CHANGED.get(command, ()))
    for name, header in _HEADERS.items():

        def prepare_header(place: Place, header: bytes = header) -> None:
            _beside(place)
            write_parts(place.work / "m.safetensors", header, bytes(100))

        for command, words in COMMANDS.items():
            yield case(
                f"models/header {name}/{command}", words, prepare_header, NOT_FINE if command != "train-out" else ANY
            )
    yield from _checkpoints()


_TENSOR = b'"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
_HEADERS = {
    "empty": b"{}", "list": b"[]", "deep": b"[" * 60_000, "no record": b"{" + _TENSOR + b"}",
    "metadata of numbers": b'{"__metadata__": {"featuregen": 5}, ' + _TENSOR + b"}",
    "metadata deep": b'{"__metadata__": {"featuregen": "' + b"[" * 60_000 + b'"}, ' + _TENSOR + b"}",
    "shape of 2^62": b'{"x": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 4]}}',
    "name esc": b'{"\\u001b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
    b'"__metadata__": {"featuregen": "{}"}}',
    "not utf-8": b'{"\xff\xfe": 1}', "nothing": b"",
}  # fmt: skip


@cache
def _record(world: Path) -> Any:
    return json.loads(read_parts(world / SOURCE)[0]["__metadata__"]["featuregen"])


def drawn(random: Random, world: Path) -> Case:
    record = _record(world)
    path, name = random.choice(list(places(record))), random.choice(ALL_BREAKS)
    command = random.choice(list(COMMANDS))
    return case(
        f"models/~{dotted(path)}-{name}/{command}", COMMANDS[command],
        lambda place: _with_record(place, lambda record: broken(record, path, name)),
        may_change=_CHANGED.get(command, ()),
    )  # fmt: skip


# Checkpoints ---------------------------------------------------------------------------------------

_CHECKPOINT_COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "c.pt"), "evaluate": ("evaluate", "c.pt"), "attack": ("attack", "c.pt", *ATTACK),
    "make": ("make-dataset", "det", "--config", "tiny.yaml", "--source", "c.pt", "--out", "o.h5"),
    "standard-from": ("reproduce", "--config", "tiny.yaml", "--standard-from", "c.pt", "--dry-run"),
    "import": ("import", "released", "--kind", "det", "--config", "tiny.yaml", "--out", "i.h5"),
}  # fmt: skip


def _doubling(times: int = 60) -> bytes:
    """A tuple that holds the last one twice, so many times: it stands for 2 to that power of values."""
    first = b"(K\x01K\x02tq\x000"
    steps = b"".join(b"(h" + bytes([n]) + b"h" + bytes([n]) + b"tq" + bytes([n + 1]) + b"0" for n in range(times))
    return first + steps + b"h" + bytes([times])


_SET = b"cbuiltins\nset\n(]"
_SIZE = b"ctorch\nSize\n("
_TENSOR_CALL = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((VstorageX\nctorch\nFloatStorage\nV0\nVcpu\nJ\xff\xff\xff\x7ftQK\x00(K\x02t(K\x01tI00\nNtR"
).replace(b"VstorageX", b"Vstorage")
_BIG = b"\x8a\xff" + b"\x7f" * 255
PROGRAMS: dict[str, bytes] = {
    "laughs-tuple": _doubling() + b".",
    "laughs-set": _SET + b"(" + _doubling(40) + b"etR.",
    "laughs-set-of-tuples": b"\x8f(" + _doubling(40) + b"\x90.",
    "laughs-tuple-dictkey": b"}" + _doubling(40) + b"K\x01s.",
    "laughs-tuple-model-key": b"}(Vmodel\n}" + _doubling(40) + b"K\x01su.",
    "laughs-frozenset": b"cbuiltins\nfrozenset\n(](" + _doubling(35) + b"etR.",
    "laughs-ordered": b"ccollections\nOrderedDict\n(](" + _doubling(35) + b"K\x01t" + b"etR.",
    "prod-of-bigints": _SIZE + b"(" + _BIG * 60 + b"ttR.",
    "prod-of-ints": _SIZE + b"(" + b"J\xff\xff\xff\x7f" * 200 + b"ttR.",
    "size-of-laughs": _SIZE + _doubling(30) + b"tR.",
    "old-keys": b"}(" + b"".join(b"K" + bytes([n]) + b"K\x01" for n in range(200)) + b"u" + _doubling(40) + b"K\x01s.",
    "deep list": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuple": b")" + b"\x85" * 100_000 + b".",
    "a million memos": b"".join(b"r" + struct.pack("<I", n) for n in range(100_000)).replace(b"r", b"K\x01r") + b".",
    "huge memo": b"K\x01r\xff\xff\xff\x7f.",
    "huge text": b"X\xff\xff\xff\x7f.", "huge bytearray": b"\x96\x00\x00\x00\x00\x01\x00\x00\x00.",
    "huge int": b"\x8b\xff\xff\xff\x7f.", "decimal int": b"I" + b"9" * 5000 + b"\n.",
    "system": b"cos\nsystem\n(Vtouch ../o/ran\ntR.", "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nVx\ntR.",
    "import by ext": b"\x82\x01.", "global esc": b"c\x1b[2J\n\x1b]0;x\x07\ntR.", "persistent": b"P../o/precious.txt\n.",
    "storage of 2^31": b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nJ\xff\xff\xff\x7ftQ.",
    "storage key ../x": b"(Vstorage\nctorch\nByteStorage\nV../x\nVcpu\nK\x04tQ.",
    "prod-of-tensors": b"(Vmodel\n" + _TENSOR_CALL * 20 + b"t.",
    "key-of-laughs": b"(Vstorage\nctorch\nFloatStorage\n" + _doubling(20) + b"Vcpu\nK\x04tQ.",
    "empty": b"", "not a pickle": b"hello", "cut": b"(K\x01K\x02", "only stop": b".", "protocol 255": b"\x80\xff.",
    "dict esc": b"}(V\\u001b[2J\nK\x01u.", "model none": b"}(Vmodel\nNu.", "model list": b"}(Vmodel\n]u.",
    "model of text": b"}(Vmodel\n}(Vmodule.model.x\nVy\nuu.",
}  # fmt: skip


def torch_zip(program: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive that `torch.save` writes, with another program in it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in (
            ("data.pkl", program),
            ("byteorder", b"little"),
            ("data/0", bytes(64)),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, compression)
    return target.getvalue()


def torch_old(program: bytes) -> bytes:
    """The older layout: a magic number, a protocol and a system record before the program."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    return (
        magic
        + b"\x80\x02M\xe9\x03."
        + b"\x80\x02}q\x00(X\r\x00\x00\x00little_endianq\x01\x88u."
        + b"\x80\x02"
        + program
    )


def _checkpoints() -> Iterator[Case]:
    files: dict[str, Callable[[], bytes]] = {}
    for name, program in PROGRAMS.items():
        files[f"{name}, zip"] = lambda program=program: torch_zip(b"\x80\x02" + program)  # type: ignore[misc]
        files[f"{name}, old"] = lambda program=program: torch_old(program)  # type: ignore[misc]
    files |= {f"pickles {name}": lambda name=name: pickled_checkpoints()[name] for name in pickled_checkpoints()}  # type: ignore[misc]
    for name, make in files.items():

        def prepare(place: Place, make: Callable[[], bytes] = make) -> None:
            place.give("tiny.yaml")
            place.decoy()
            for path in ("c.pt", "released/CIFAR_ims", "released/CIFAR_lab"):
                place.write(path, make())

        for command, words in _CHECKPOINT_COMMANDS.items():
            # A dry run opens no more of a model than its name.
            codes = ANY if command == "standard-from" else ONLY_REFUSED
            yield case(f"checkpoints/{name}/{command}", words, prepare, codes)


@cache
def pickled_checkpoints() -> dict[str, bytes]:
    """The checkpoints of crafted_pickles.py, which has many more."""
    return {name.replace("/", " "): content for name, content in checkpoints().items()}
