"""Checkpoints of a few hundred bytes that ask for a lot: pickles put together by hand, in both layouts of torch.save.

A case is a value that is small in the file and large in memory, at a place where a reader would hash, multiply, print,
copy or call it; or a program that repeats an operation; or an archive whose directory lies.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

from reliability.crafted_zips import archives

_PROTOCOL = b"\x80\x04"
# Where the values below keep what they double, out of the way of the programs around them.
_SLOT = 200
Place = Callable[[bytes], bytes]


# Operations ----------------------------------------------------------------------------------------


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content.encode())) + content.encode()


def whole(number: int) -> bytes:
    """An integer of any size."""
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(content)) + content


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def repeated(operations: bytes, first: bytes, count: int = 60) -> bytes:
    """A value, and again and again what the operations make of the last one, which `get` in them stands for."""
    steps = [b"q" + bytes([_SLOT + step % 2]) + b"0" + operations.replace(b"get", b"h" + bytes([_SLOT + step % 2]))
             for step in range(count)]  # fmt: skip
    return first + b"".join(steps)


def storage(key: bytes = text("0"), count: bytes = b"K\x04", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + key + text("cpu") + count + b"tQ"


def tensor(
    numbers: bytes = storage(), offset: bytes = b"K\x00", shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), numbers, offset, shape, stride, b"\x89", hooks)


# Values and places ---------------------------------------------------------------------------------

_SIZE, _ORDERED = name("torch", "Size"), name("collections", "OrderedDict")
VALUES: dict[str, bytes] = {
    "a doubled tuple": repeated(b"getget\x86", b"N\x85"),
    "a doubled list": repeated(b"](getgete", b"]"),
    "a doubled dict": repeated(b"}(K\x01getK\x02getu", b"}"),
    "a doubled set": repeated(b"\x8f(getget\x85\x90", b"(\x91"),
    "a doubled frozenset": repeated(b"(getget\x85\x91", b"(\x91"),
    "a doubled size": repeated(call(_SIZE, b"getget\x86"), b")"),
    "a deep tuple": b"N" + b"\x85" * 50_000,
    "a deep list": b"]" * 50_000 + b"a" * 49_999,
    "a list in itself": b"]q\xc8h\xc8a",
    "a dict in itself": b"}q\xc8K\x01h\xc8s",
    "an integer of a million bits": whole(1 << 1_000_000),
    "integers of a million bits": whole(1 << 1_000_000) + b"q\xc8\x85" + repeated(b"h\xc8get\x86", b")", 20),
    "an integer of 65 bits": whole(1 << 65),
    "a negative integer": whole(-1),
    "a tensor": tensor(),
    "tensors": repeated(b"(" + tensor() + b"gett", b")", 20),
    "a text of a megabyte": text("x" * 1_000_000),
    "a surrogate": b"X\x03\x00\x00\x00\xed\xa0\x80",
    "a number that is none": b"G" + struct.pack(">d", float("nan")),
    "an object of dill": call(name("dill._dill", "_create_function"), b"N"),
}
PLACES: dict[str, Place] = {
    "the content": lambda value: value,
    "the model": lambda value: mapping(model=value, epoch=b"K\x01"),
    "in the model": lambda value: mapping(model=mapping(weight=value)),
    "the epoch": lambda value: mapping(model=mapping(weight=tensor()), epoch=value),
    "a key": lambda value: b"}" + value + b"Ns",
    "a key of many": lambda value: b"}(" + value + b"NK\x01Nu",
    "a key of the model": lambda value: mapping(model=b"}" + value + tensor() + b"s"),
    "a key of an ordered dict": lambda value: call(_ORDERED) + value + b"Ns",
    "the pairs of an ordered dict": lambda value: call(_ORDERED, value),
    "a pair of an ordered dict": lambda value: call(_ORDERED, b"](" + value + b"N\x86e"),
    "in a set": lambda value: b"\x8f(" + value + b"\x90",
    "in a frozenset": lambda value: b"(" + value + b"\x91",
    "a size": lambda value: call(_SIZE, value),
    "in a size": lambda value: call(_SIZE, value + b"\x85"),
    "a shape": lambda value: tensor(shape=value),
    "in a shape": lambda value: tensor(shape=value + value + b"\x86", stride=b"K\x01K\x01\x86"),
    "a stride": lambda value: tensor(stride=value),
    "in a stride": lambda value: tensor(stride=value + b"\x85"),
    "an offset": lambda value: tensor(offset=value),
    "the numbers of a tensor": lambda value: tensor(numbers=value),
    "the key of a storage": lambda value: tensor(numbers=storage(key=value)),
    "the count of a storage": lambda value: tensor(numbers=storage(count=value)),
    "what is stored": lambda value: value + b"Q",
    "a numpy type": lambda value: call(name("numpy", "dtype"), value),
    "a numpy number": lambda value: call(
        name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("f8")), value
    ),
    "a parameter": lambda value: call(name("torch._utils", "_rebuild_parameter"), value),
    "encoded": lambda value: call(name("_codecs", "encode"), value),
    "the arguments of a call": lambda value: _ORDERED + value + b"R",
    "what is called": lambda value: value + b")R",
    "given to dill": lambda value: call(name("dill._dill", "_create_function"), value),
    "the state of an object": lambda value: call(_ORDERED) + value + b"b",
    "the name of a class": lambda value: value + value + b"\x93",
}  # fmt: skip

# Programs ------------------------------------------------------------------------------------------

_MANY = 1_200_000
# Integers whose hashes are equal, since they are multiples of the modulus of Python's hashes.
_EQUAL_HASHES = [number * (2**61 - 1) for number in range(1, 30_000)]
_CALLS = 200_000
PROGRAMS: dict[str, bytes] = {
    "nothing, many times": b"N0" * (_MANY // 2) + b"N",
    "lists": b"]" * _MANY,
    "marks": b"(" * _MANY,
    "a memo of a million": b"\x94".join([b"N"] * (_MANY // 2)),
    "memo numbers of equal hashes": b"N" + b"".join(f"p{number}\n".encode() for number in _EQUAL_HASHES),
    "keys of equal hashes": b"}(" + b"".join(whole(number) + b"N" for number in _EQUAL_HASHES) + b"u",
    "ordered dicts": _ORDERED + b"q\x00)q\x01" + b"h\x00h\x01R" * _CALLS,
    "copies of a long size": _SIZE + b"q\x00(" + b"K\x01" * 10_000 + b"t\x85q\x01" + b"h\x00h\x01R" * _CALLS,
    "copies of long pairs": _ORDERED + b"q\x00](" + b"NN\x86" * 10_000 + b"e\x85q\x01" + b"h\x00h\x01R" * _CALLS,
    "bytes of one text": name("_codecs", "encode") + b"q\x00" + text("x" * 1_000_000) + text("latin1") + b"\x86q\x01"
    + b"h\x00h\x01R" * _CALLS,
    "names of one text": text("dill") + b"q\x00" + text("x" * 1_000_000) + b"q\x01" + b"h\x00h\x01\x93" * _CALLS,
    "views of one tensor": name("torch._utils", "_rebuild_tensor")
    + b"q\x00("
    + storage()
    + b"K\x00K\x04\x85K\x01\x85tq\x01]("
    + b"h\x00h\x01R" * _CALLS
    + b"e",
    "one tensor, many times": b"](" + tensor() + b"q\x00" + b"h\x00" * 100_000 + b"e",
    "a hundred thousand tensors": b"](" + tensor(storage(count=b"K\x00"), shape=b"K\x00\x85") * 100_000 + b"e",
    "a tensor with stride 0": tensor(shape=whole(2**40) + b"\x85", stride=b"K\x00\x85"),
    "an empty tensor of many dimensions": tensor(
        shape=b"(" + b"K\x00" + whole(2**40) * 60 + b"t", stride=b"(" + b"K\x01" * 61 + b"t"
    ),
    "an empty tensor of large dimensions": tensor(
        shape=whole(2**40) * 2 + b"K\x00\x87", stride=b"K\x01K\x01K\x01\x87"
    ),
    "a stride beyond": tensor(stride=whole(2**40) + b"\x85"),
    "an offset beyond": tensor(offset=whole(2**62)),
    "a long line": b"V" + b"x" * 100_000 + b"\n",
    "a long decimal number": b"I" + b"9" * 100_000 + b"\n",
    "a long decimal number, not short": b"L" + b"9" * 100_000 + b"L\n",
    "a text longer than the file": b"\x8d" + struct.pack("<Q", 2**40),
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**40),
    "a bytearray longer than the file": b"\x96" + struct.pack("<Q", 2**40),
    "a frame longer than the file": b"\x95" + struct.pack("<Q", 2**40),
    "a number longer than the file": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "a number of negative length": b"\x8b" + struct.pack("<i", -1),
    "no end": b"N",
    "an empty stack": b"0",
    "no mark": b"t",
    "no memo": b"h\x07",
    "an odd number of items": b"}(K\x01u",
    "a protocol to come": b"\x80\xffN",
    "items of a tensor": tensor() + b"Na",
    "the state of a tensor": tensor() + b"}b",
    "a call of the system": call(name("os", "system"), text("true")),
    "an object of a class": b"(" + name("os", "system")[1:].replace(b"c", b"i", 1),
}  # fmt: skip

# Layouts -------------------------------------------------------------------------------------------


def zipped(program: bytes) -> bytes:
    """The layout of torch 1.6 and later."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for part, data in {"data.pkl": program, "byteorder": b"little", "data/0": bytes(16)}.items():
            file.writestr(zipfile.ZipInfo(f"archive/{part}"), data)
    return content.getvalue()


_MACHINE = b"}" + text("little_endian") + b"\x88s"


def old(
    content: bytes, keys: bytes = b"]" + text("0") + b"a", *, version: bytes = b"M\xe9\x03", machine: bytes = _MACHINE,
    count: int = 4,
) -> bytes:  # fmt: skip
    """The layout before: five pickles, and then the numbers of each storage."""
    magic = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
    pickles = (magic, version, machine, content, keys)
    return b"".join(b"\x80\x02" + part + b"." for part in pickles) + struct.pack("<q", count) + bytes(16)


def _old_layouts() -> dict[str, bytes]:
    made = {f"old: keys are {kind}": old(tensor(), value) for kind, value in VALUES.items()}
    made |= {f"old: a key is {kind}": old(tensor(), b"]" + value + b"a") for kind, value in VALUES.items()}
    made |= {f"old: the version is {kind}": old(tensor(), version=value) for kind, value in VALUES.items()}
    made |= {f"old: the machine is {kind}": old(tensor(), machine=value) for kind, value in VALUES.items()}
    for place in ("a key", "the key of a storage", "a shape", "the content"):
        made |= {f"old: {kind} as {place}": old(PLACES[place](value)) for kind, value in VALUES.items()}
    made |= {f"old: a count of {count}": old(tensor(), count=count) for count in (-1, 5, 2**62)}
    made["old: keys twice"] = old(tensor(), b"](" + text("0") * 2 + b"e")
    made["old: no keys"] = old(tensor(), b"]")
    made["old: a key too many"] = old(tensor(), b"](" + text("0") + text("1") + b"e")
    made["old: nothing behind the beginning"] = old(b"")[:20]
    return made


def checkpoints() -> dict[str, bytes]:
    """Every case by its name; none is a checkpoint or a release that featuregen could use."""
    made = {
        f"{kind} as {where}": zipped(_PROTOCOL + place(value) + b".")
        for where, place in PLACES.items()
        for kind, value in VALUES.items()
    }
    made |= {kind: zipped(_PROTOCOL + program + b"." * (kind != "no end")) for kind, program in PROGRAMS.items()}
    return made | _old_layouts() | archives(zipped(_PROTOCOL + mapping(model=mapping(weight=tensor())) + b"."))
