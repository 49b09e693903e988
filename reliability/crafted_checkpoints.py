"""Checkpoints that are small and vicious, in both layouts of torch.save; crafted_pickles.py has many more programs."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache

from reliability.crafted_case import ONLY_REFUSED, Case, Place, case
from reliability.crafted_pickles import checkpoints, storage, tensor, whole
from reliability.crafted_world import ATTACK

COMMANDS: dict[str, tuple[str, ...]] = {
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
    b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nJ\xff\xff\xff\x7ftQ"
    b"K\x00(K\x02t(K\x01tI00\nNtR"
)
_BIG = b"\x8a\xff" + b"\x7f" * 255
_NUMBERS = 1 << 14
_STORED = storage(count=b"M" + struct.pack("<H", _NUMBERS))
# Of all that is stored, a column and a row, whose sum or product has the square of that many numbers.
_PLANES = (
    tensor(_STORED, shape=whole(_NUMBERS) + b"K\x01\x86", stride=b"K\x01K\x01\x86") + b"q\x000"
    + tensor(_STORED, shape=b"K\x01" + whole(_NUMBERS) + b"\x86", stride=b"K\x01K\x01\x86") + b"q\x010"
)  # fmt: skip
PROGRAMS: dict[str, bytes] = {
    "laughs-tuple": _doubling() + b".",
    "laughs-set": b"\x8f(" + _doubling(40) + b"\x90.", "laughs-set by call": _SET + b"(" + _doubling(40) + b"etR.",
    "laughs-tuple-dictkey": b"}" + _doubling(40) + b"K\x01s.",
    "laughs-tuple-model-key": b"}(Vmodel\n}" + _doubling(40) + b"K\x01su.",
    "laughs-frozenset": b"cbuiltins\nfrozenset\n(](" + _doubling(35) + b"etR.",
    "laughs-ordered": b"ccollections\nOrderedDict\n(](" + _doubling(35) + b"K\x01t" + b"etR.",
    # The reader multiplies what a shape holds, and adds what a set holds.
    "prod-of-bigints": tensor(_STORED, shape=_BIG + b"q\x000(" + b"h\x00" * 40_000 + b"t") + b".",
    "prod-of-tensors": _PLANES + tensor(_STORED, shape=b"(" + b"h\x00h\x01" * 500 + b"t") + b".",
    "set-add-of-tensors": _PLANES + b"h\x00(" + b"h\x01" * 1000 + b"\x90.",
    "size-of-bigints": _SIZE + b"(" + _BIG * 60 + b"ttR.",
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
    "tensors of 2^31": b"(Vmodel\n" + _TENSOR_CALL * 20 + b"t.",
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
            ("data/0", bytes(4 * _NUMBERS)),
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


def by_hand() -> Iterator[Case]:
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

        for command, words in COMMANDS.items():
            yield case(f"checkpoints/{name}/{command}", words, prepare, ONLY_REFUSED)


@cache
def pickled_checkpoints() -> dict[str, bytes]:
    """The checkpoints of crafted_pickles.py, which has many more."""
    return {name.replace("/", " "): content for name, content in checkpoints().items()}
