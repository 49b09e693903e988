"""Pictures and arrays that somebody else made: valid but for one thing."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from PIL import Image

from reliability.crafted_breaks import ESCAPES
from reliability.crafted_case import ANY, ONLY_REFUSED, Case, Place, Run, case
from reliability.crafted_models import read_parts
from reliability.crafted_world import CONFIG, arrays, pictures

Change = Callable[[Place], object]

# Pictures ------------------------------------------------------------------------------------------

_PICTURE_COMMANDS: dict[str, tuple[str, ...]] = {
    "make": ("make-dataset", "det", "--config", "small.yaml", "--data", "set", "--out", "o.h5"),
    "train": ("train", "--standard", "--config", "small.yaml", "--data", "set", "--out", "t.safetensors"),
    "dry-run": ("reproduce", "--config", "small.yaml", "--data", "set", "--dry-run"),
    "verify": ("verify", "good.h5", "--data", "set"), "evaluate": ("evaluate", "good.h5", "--data", "set"),
}  # fmt: skip


def _save(mode: str, dtype: Any = np.uint8, name: str = "0.png", **how: Any) -> Change:
    """A picture of another kind in place of the first one."""

    def change(place: Place) -> None:
        shape = (8, 8) if mode in ("L", "I;16", "P", "1", "I", "F") else (8, 8, len(mode))
        values = np.random.default_rng(0).integers(0, 200, shape)
        image = Image.fromarray(
            (values * (257 if mode == "I;16" else 1)).astype(dtype), None if mode == "I;16" else mode
        )
        image.save(place.work / "set/train/a" / name, **how)

    return change


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, data: bytes | None = None, extra: bytes = b""
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if data is None:
        packer = zlib.compressobj(9)
        row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _sixteen_bits(place: Place) -> None:
    for path in sorted(place.work.glob("set/*/*/*.png")):
        values = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype("<u2")
        Image.fromarray(values).save(path)


def _grey_first(place: Place) -> None:
    first = min(place.work.glob("set/train/a/*.png"))
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(first)


def _all(width: int, height: int) -> Change:
    return lambda place: [path.write_bytes(png(width, height)) for path in place.work.glob("set/*/*/*.png")]


def _write(name: str, content: bytes) -> Change:
    return lambda place: place.write(f"set/train/{name}", content)


def _rename(name: str) -> Change:
    """A class under another name, in both parts."""

    def change(place: Place) -> None:
        for part in ("train", "test"):
            (place.work / "set" / part / "b").rename(place.work / "set" / part / name)

    return change


_PICTURES: dict[str, Change] = {
    "16 bits": _sixteen_bits, "one of 16 bits": _save("I;16", np.uint16), "grey first": _grey_first,
    "one grey": _save("L", name="2.png"), "one with alpha": _save("RGBA"), "one of two colours": _save("1", bool),
    "one float tiff": _write("a/0.tiff", b"II*\x00\x08\x00\x00\x00\xff\xff"), "cmyk": _save("CMYK", name="0.jpg"),
    "all 4096x4096 (few KB each)": _all(4096, 4096), "all 9000x9000": _all(9000, 9000), "all 1x1": _all(1, 1),
    "one 30000x30000": _write("a/0.png", png(30000, 30000, data=zlib.compress(bytes(1000)))),
    "one of another size": _write("a/0.png", png(9, 8)), "an empty picture": _write("a/0.png", b""),
    "half a picture": _write("a/0.png", png(8, 8)[:60]), "text as picture": _write("a/0.png", b"hello"),
    "postscript": _write("a/0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n(x) (w) file\nshowpage\n"),
    "text chunk bomb": _write("a/0.png", png(8, 8, extra=_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8), 9)))),
    "a FIFO among the pictures": lambda place: place.fifo("set/train/a/f.png"),
    "a FIFO as class": lambda place: place.fifo("set/train/f"),
    "a link outside": lambda place: place.link("set/train/a/z.png", place.decoy("z.png", png(8, 8))),
    "a link to itself": lambda place: place.link("set/train/a/l.png", place.work / "set/train/a/l.png"),
    "a link to a device": lambda place: place.link("set/train/a/d.png", place.work.__class__("/dev/zero")),
    "a folder as picture": lambda place: (place.work / "set/train/a/d.png").mkdir(),
    "class name in latin-1": _rename("caf\udce9"), "class with escape": _rename(f"b{ESCAPES}"),
    "class with bidi": _rename("b\u202eexe"), "class of 255": _rename("w" * 255),
    "class with newline": _rename("b\nerror: x"),
    "class with dollar": _rename("$\\frac{1}$"), "class in thai": _rename("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"),
    "class with a percent": _rename("%n%s{x}"), "class with a comma": _rename('a,"b'),
    "class with a minus": _rename("--out"),
    "a picture in latin-1": lambda place: place.write("set/train/a/caf\udce9.png", png(8, 8)),
    "a picture with escape": lambda place: place.write(f"set/train/a/{ESCAPES}.png", b"no picture"),
    "no test": lambda place: __import__("shutil").rmtree(place.work / "set/test"),
    "a class without test": lambda place: __import__("shutil").rmtree(place.work / "set/test/b"),
    "an empty class": lambda place: (place.work / "set/train/c").mkdir(), "hidden files": _write(".DS_Store", b"x"),
    "a README": lambda place: place.write("set/README.md", b"hello"), "one class": lambda place: [
        __import__("shutil").rmtree(place.work / "set" / part / "b") for part in ("train", "test")
    ],
}  # fmt: skip
_REFUSED_PICTURES = ("a FIFO among the pictures", "an empty picture", "half a picture", "text as picture")


def _not_silently_white(place: Place, run: Run) -> str:
    """Pictures of 16 bits are refused, or scaled: never cut off at white."""
    return "pictures of 16 bits were taken without a word" if run.code == 0 and b"16" not in run.err else ""


def _keeps_colour(place: Place, run: Run) -> str:
    channels = [h5py.File(path)["images"].shape[1] for path in place.work.glob("o.h5")]
    for path in place.work.glob("t.safetensors"):
        channels.append(json.loads(read_parts(path)[0]["__metadata__"]["featuregen"])["image_shape"][0])
    told = b"grey" in run.err
    return "a grey first picture took the colour from all without a word" if 1 in channels and not told else ""


def _pictures() -> Iterator[Case]:
    checks = {"16 bits": _not_silently_white, "one of 16 bits": _not_silently_white, "grey first": _keeps_colour}
    for name, change in _PICTURES.items():

        def prepare(place: Place, change: Change = change) -> None:
            _beside(place)
            pictures(place.work / "set")
            change(place)

        for command, words in _PICTURE_COMMANDS.items():
            makes = command in ("make", "train")
            codes = ONLY_REFUSED if makes and name in _REFUSED_PICTURES else ANY
            yield case(f"pictures/{name}/{command}", words, prepare, codes, check=checks.get(name) if makes else None)


def _beside(place: Place) -> None:
    place.write(
        "small.yaml",
        CONFIG.replace("rows: 40", "rows: 4")
        .replace("batch_size: 64", "batch_size: 4")
        .replace("rows: 50", "rows: 4")
        .replace("rows: 30", "rows: 2"),
    )
    place.give("own/own-det.h5", "good.h5")
    place.give("tiny.yaml")


# Arrays --------------------------------------------------------------------------------------------

_SET_COMMANDS = {
    name: tuple("set.npz" if word == "set" else word.replace("small", "tiny") for word in words)
    for name, words in _PICTURE_COMMANDS.items()
}


def _arrays(**changes: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        target = io.BytesIO()
        np.savez(target, **{name: value for name, value in (arrays() | changes).items() if value is not None})
        return target.getvalue()

    return make


def _member(name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> Callable[[], bytes]:
    def make() -> bytes:
        target = io.BytesIO(_arrays()())
        with zipfile.ZipFile(target) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", how) as archive:
            for each, old in (members | {name: content}).items():
                archive.writestr(each, old)
        return target.getvalue()

    return make


def _npy(text: str, data: bytes = b"") -> bytes:
    head = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


_HEAD = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}"
_ARRAYS: dict[str, Callable[[], bytes]] = {
    "objects": _member("x_train.npy", _npy(_HEAD.format("'|O'", "(60, 8, 8, 3)"),
            b"cos\nsystem\n(Vtouch ../o/ran\ntR.")),
    "shape of 2^62": _member("x_train.npy", _npy(_HEAD.format("'|u1'", "(4611686018427387904, 8, 8, 3)"))),
    "negative shape": _member("x_train.npy", _npy(_HEAD.format("'|u1'", "(-1, 8, 8, 3)"))),
    "huge number": _member("x_train.npy", _npy(_HEAD.format("'|u1'", "(" + "9" * 5000 + ",)"))),
    "deep header": _member("x_train.npy", _npy("(" * 5000)),
    "code in header": _member("x_train.npy", _npy("__import__('os').system('touch ../o/ran')")),
    "bomb": _member("x_train.npy", _npy(_HEAD.format("'|u1'", "(60, 5000, 5000, 3)"), bytes(2 * 10**8)),
        zipfile.ZIP_DEFLATED),
    "name with escape": _member(f"{ESCAPES}.npy", b"x"), "name with ..": _member("../../o/x.npy", b"x"),
    "no labels": _arrays(y_train=None), "text labels": _arrays(y_train=np.array(["a"] * 60)),
    "labels of 2^62": _arrays(y_train=np.full(60, 2**62)), "negative labels": _arrays(y_train=np.full(60, -1)),
    "nan labels": _arrays(y_train=np.full(60, np.nan)), "half labels": _arrays(y_train=np.full(60, 0.5)),
    "nan pixels": _arrays(x_train=np.full((60, 8, 8, 3), np.nan)),
    "big pixels": _arrays(x_train=np.full((60, 8, 8, 3), 1e30)),
    "five channels": _arrays(x_train=np.zeros((60, 8, 8, 5), np.uint8), x_test=np.zeros((60, 8, 8, 5), np.uint8)),
    "no rows": _arrays(x_train=np.zeros((0, 8, 8, 3), np.uint8), y_train=np.zeros(0, np.uint8)),
    "one label": _arrays(y_train=np.zeros(60, np.uint8)),
    "1x1": _arrays(x_train=np.zeros((60, 1, 1, 3), np.uint8), x_test=np.zeros((60, 1, 1, 3), np.uint8)),
    "empty file": lambda: b"",
    "not a zip": lambda: b"PK\x03\x04hello", "cut": lambda: _arrays()()[:5000],
    "a class missing": _arrays(y_train=(np.arange(60) % 3 + 1).astype(np.uint8)),
}  # fmt: skip


def _sets() -> Iterator[Case]:
    for name, make in _ARRAYS.items():

        def prepare(place: Place, make: Callable[[], bytes] = make) -> None:
            _beside(place)
            place.write("set.npz", make())

        for command, words in _SET_COMMANDS.items():
            yield case(f"arrays/{name}/{command}", words, prepare)


def by_hand() -> Iterator[Case]:
    yield from _pictures()
    yield from _sets()
