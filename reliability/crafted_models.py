"""Model files whose metadata breaks one rule or whose weights are odd."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from reliability.crafted_breaks import ALL_BREAKS, broken, dotted, places
from reliability.crafted_case import ANY, FAILED, FINE, NOT_FINE, Case, Place, case
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
    "reproduce-anew": ("reproduce", "--config", "tiny.yaml", "--standard-from", "m.safetensors", "--set",
        "evaluation.steps=1"),
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


def _kept_before(place: Place) -> None:
    """A run that was given a model of the same weights has kept it, and its record says nothing in the right way."""
    header, content = read_parts(place.world / SOURCE)
    record = json.loads(header["__metadata__"]["featuregen"])
    record["record"] |= {"settings": [], "accuracy": {}}
    header["__metadata__"]["featuregen"] = json.dumps(record)
    name = f"{record['architecture']}-{record['weights_sha256'][:16]}.safetensors"
    write_parts(place.write(f"datasets_out/models/{name}", b""), header, content)


def _with_weights(place: Place, change: Callable[[np.ndarray], Any], sealed: bool) -> None:
    """All tensors of floats changed; the recorded digest of the weights is made to agree, or stays."""
    _beside(place)
    header, content = read_parts(place.world / SOURCE)
    data = bytearray(content)
    for name, entry in header.items():
        if name not in ("__metadata__", "mean", "std") and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(content[first:last], "<f4").copy()
            values[...] = change(values)
            data[first:last] = values.tobytes()
    if sealed:
        record = json.loads(header["__metadata__"]["featuregen"])
        header["__metadata__"]["featuregen"] = json.dumps(record | {"weights_sha256": _weights_digest(header, data)})
    write_parts(place.work / "m.safetensors", header, bytes(data))


def _weights_digest(header: dict[str, Any], data: bytes | bytearray) -> str:
    """Of the name, type, shape and bytes of every tensor."""
    digest = sha256()
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            dtype = {"F32": "torch.float32", "I64": "torch.int64"}[entry["dtype"]]
            first, last = entry["data_offsets"]
            digest.update(f"{name} {dtype} {entry['shape']}\n".encode() + data[first:last])
    return digest.hexdigest()


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
    "weights 0": lambda values: 0.0, "weights 1e30": lambda values: values * 1e30,
    "weights all 1e30": lambda values: 1e30, "weights nan": lambda values: np.nan,
    "weights inf": lambda values: np.inf, "one nan": lambda values: np.where(np.arange(values.size) == 0, np.nan,
        values),
}  # fmt: skip


def by_hand() -> Iterator[Case]:
    for name, (path, break_name) in _FIELDS.items():

        def prepare(place: Place, path: Any = path, break_name: str = break_name) -> None:
            _with_record(place, lambda record: broken(record, tuple(path), break_name))

        for command, words in COMMANDS.items():
            yield case(f"models/record {name}/{command}", words, prepare, may_change=_CHANGED.get(command, ()))

        def prepare_again(place: Place, prepare: Callable[[Place], None] = prepare) -> None:
            prepare(place)
            _kept_before(place)

        yield case(
            f"models/record {name}/reproduce-kept", COMMANDS["reproduce"], prepare_again, may_change=["datasets_out/*"]
        )
    for name, change in _WEIGHTS.items():
        for more, sealed in (("", True), (", digest left", False)):

            def prepare_weights(place: Place, change: Callable[[Any], Any] = change, sealed: bool = sealed) -> None:
                _with_weights(place, change, sealed)

            for command, words in COMMANDS.items():
                # That a model is too weak to be judged is what the check finds, and no mistake of its user.
                codes = frozenset({FINE, FAILED}) if (name, more, command) == ("weights 0", "", "sanity") else ANY
                may_change = _CHANGED.get(command, ())
                yield case(f"models/{name}{more}/{command}", words, prepare_weights, codes, may_change=may_change)
    for name, header in _HEADERS.items():

        def prepare_header(place: Place, header: bytes = header) -> None:
            _beside(place)
            write_parts(place.work / "m.safetensors", header, bytes(100))

        for command, words in COMMANDS.items():
            yield case(
                f"models/header {name}/{command}", words, prepare_header, NOT_FINE if command != "train-out" else ANY
            )


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
