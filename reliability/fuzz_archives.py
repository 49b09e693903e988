"""Pickles, zip archives, arrays of numpy, safetensors and pictures, broken where they are meant to be read."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from reliability.fuzz_bytes import BYTES, INTERESTING, Mutation, changed_json

# Pickles -------------------------------------------------------------------------------------------

_NUMBERS = tuple(struct.pack("<Q", number & (2**64 - 1)) for number in INTERESTING)
# Pieces of programs that real pickles of weights never have.
SNIPPETS = (
    b"cos\nsystem\n(Vtrue\ntR", b"c__builtin__\neval\n(V1\ntR", b"cbuiltins\ngetattr\n", b"cbuiltins\nexec\n(V1\ntR",
    b"(Vtrue\nios\nsystem\n", b"(cos\nsystem\nVtrue\no", b"cos\nsystem\n(Vtrue\nt\x81",
    b"csubprocess\nPopen\n(Vtrue\ntR",
    b"ctorch\nload\n(V../decoy/decoy.pt\ntR", b"cnumpy\nload\n(V../decoy/decoy.npz\ntR",
    b"cio\nopen\n(V../decoy/decoy.bin\ntR",
    b"ctorch._utils\n_rebuild_tensor_v2\n}b", b"ccollections\nOrderedDict\n)R}b",
    b"cdill._dill\n_import_module\n(Vos\ntR",
    b"cdill._dill\n_create_function\n(tR", b"c_codecs\nencode\n(Vabc\nVrot13\ntR", b"c_codecs\nencode\n(Vabc\nVzip\ntR",
    b"cnumpy\ndtype\n(Vf8\nK\x00K\x01tR", b"cnumpy\ndtype\n(VO\ntR", b"cnumpy._core.multiarray\nscalar\n(N)R",
    b"cnumpy.core.multiarray\n_reconstruct\n(tR", b"ctorch\nSize\n(J\xff\xff\xff\x7ftR", b"ctorch\nFloatStorage\n",
    b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nJ\xff\xff\xff\x7ftQ",
    b"(Vstorage\nctorch\nByteStorage\nV../x\nVcpu\nK\x04tQ",
    b"P../decoy/decoy.bin\n", b"(Vfile\nV../decoy/decoy.bin\ntQ", b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00",
    b"r\xff\xff\xff\x7f", b"q\xff", b"j\xff\xff\xff\x7f", b"h\xff", b"g9\n", b"p-1\n", b"0" * 20, b"1", b"2" * 50,
    b"(" * 2000,
    b"]" * 500 + b"a" * 499, b"\x85" * 5000, b"}" * 900 + b"K\x01" + b"s" * 0, b"\x8b\xff\xff\xff\x7f",
    b"\x8a\xff" + b"\xff" * 255,
    b"\x8b\x00\x00\x00\x01", b"X\xff\xff\xff\x7f", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00", b"\x96\xff\xff\xff\xff\x00\x00\x00\x00", b"\x97\x98",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x95\x00\x00\x00\x40\x00\x00\x00\x00", b"I" + b"9" * 5000 + b"\n", b"L" + b"9" * 5000 + b"L\n", b"F1e999\n",
    b"Fnan\n", b"I01\n",
    b"S'\\x41'\n", b"S'unterminated\n", b"V\\ud800\n", b"\x8c\x02\xff\xfe", b"\x8c\x02os\x8c\x06system\x93",
    b"\x80\xff",
    b"\x80\x02", b".", b"N", b"NR", b"Nb", b")\x81", b"}(tb", b"]N\x90", b"\x8f", b"\x8f(N\x90", b"\x91", b"N)\x92",
    b"t", b"u", b"e", b"s", b"a",
)  # fmt: skip


def pickled(data: bytes, random: Random) -> bytes:
    """Operations of the program left out, doubled, exchanged, given other operands, or joined by foreign ones."""
    parts = _operations(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        if not parts:
            break
        at, other = random.randrange(len(parts)), random.randrange(len(parts))
        kind = random.randrange(7)
        if kind == 0:
            del parts[at]
        elif kind == 1:
            parts.insert(other, parts[at])
        elif kind == 2:
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 3:
            width = len(parts[at]) - 1
            parts[at] = parts[at][:1] + (random.choice(_NUMBERS)[:width] if width <= 8 else random.randbytes(width))
        elif kind == 4:
            parts[at] = random.choice(SNIPPETS)
        else:
            parts.insert(at, random.choice(SNIPPETS))
    return b"".join(parts)


def _operations(data: bytes) -> list[bytes]:
    """Of as many programs as there are in a row, and what is left behind them."""
    parts: list[bytes] = []
    stream, end = io.BytesIO(data), 0
    try:
        while True:
            places = [place for _, _, place in pickletools.genops(stream) if place is not None]
            stop = stream.tell()
            # Places are counted from where each program begins.
            first = places[0]
            places = [place - first + end for place in places]
            parts += [data[a:b] for a, b in zip(places, [*places[1:], stop], strict=True)]
            end = stop
    except ValueError:
        return [*parts, data[end:]] if end < len(data) else parts


# Zip archives --------------------------------------------------------------------------------------


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return target.getvalue()


def inside(change: Mutation, ending: str) -> Mutation:
    """A member changed and the archive made again around it, so that its checksums agree."""

    def mutated(data: bytes, random: Random) -> bytes:
        members = _members(data)
        name = random.choice([name for name in members if name.endswith(ending)] or list(members))
        members[name] = change(members[name], random)
        return _zipped(members, random.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,)))

    return mutated


def rearranged(data: bytes, random: Random) -> bytes:
    """Members missing, twice, under other names, packed in other ways, or as bombs."""
    members = _members(data)
    name = random.choice(list(members))
    kind = random.randrange(5)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[
            random.choice(
                ("../decoy/x", "/etc/x", "a" * 60_000, "", "archive/code/x.py", "archive/constants.pkl", name + "\0")
            )
        ] = members.pop(name)
    elif kind == 2:
        members[name] = bytes(random.choice((10**6, 5 * 10**7)))
        return _zipped(members, zipfile.ZIP_DEFLATED)
    elif kind == 3:
        return _zipped(members, random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    else:
        members[name] = members[random.choice(list(members))]
    return _zipped(members)


def directory(data: bytes, random: Random) -> bytes:
    """Numbers in the archive's own tables."""
    signature = random.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"))
    places = [at for at in range(len(data)) if data.startswith(signature, at)]
    if not places:
        return data
    broken = bytearray(data)
    at, width = random.choice(places) + 4 + 2 * random.randrange(22), random.choice((2, 4, 8))
    broken[at : at + width] = random.choice(_NUMBERS)[:width]
    return bytes(broken[: max(len(data), at)])


ZIP: tuple[Mutation, ...] = (rearranged, directory, directory)
TORCH: tuple[Mutation, ...] = (
    *ZIP,
    *(inside(pickled, "data.pkl"),) * 5,
    inside(BYTES[0], "data.pkl"),
    inside(BYTES[1], ""),
)
OLD_TORCH: tuple[Mutation, ...] = (pickled,) * 4


# Arrays of numpy -----------------------------------------------------------------------------------

_DESCRIPTIONS = (
    "'|O'", "'<f8'", "'|u1'", "'>i4'", "'S0'", "'U1000000000'", "'V0'", "'V1000000000'",
    "[('a', '<f8', (1000000000,))]",
    "'<M8[ns]'", "'c16'", "'f2'", "'?'", "5", "None", "[]", "'" + "a" * 500 + "'", "('<f8', (10**6,))",
    "[('x', '|O')]", "'" + ",".join(["f8"] * 2000) + "'",
)  # fmt: skip
_SHAPES = (
    "()", "(0,)", "(-1,)", "(12, 4, 5, 3)", "(1000000000000,)", "(2**62, 4)", "(4611686018427387904, 4)", "(-1, -1)",
    "(12.0,)",
    "[12]", "12", "(True,)", "('a',)", "(" * 200 + ")" * 200, "(" + "1," * 3000 + ")", "(9" + "9" * 400 + ",)",
    "(12, 0, 5)", "(0, 1000000000000)",
)  # fmt: skip


def numpy_header(data: bytes, random: Random) -> bytes:
    version = random.choice(((1, 0),) * 5 + ((2, 0), (3, 0), (9, 9)))
    old = data[10 : 10 + struct.unpack_from("<H", data, 8)[0]].decode("latin-1")
    fields = {
        "descr": old.split("'descr': ")[1].split(", 'fortran")[0],
        "order": "False",
        "shape": old.split("'shape': ")[1].split(", }")[0],
    }
    fields[random.choice(("descr", "shape"))] = random.choice(_DESCRIPTIONS + _SHAPES)
    if random.random() < 0.3:
        fields["order"] = random.choice(("True", "None", "1", "'x'", "__import__('os').system('true')"))
    text = f"{{'descr': {fields['descr']}, 'fortran_order': {fields['order']}, 'shape': {fields['shape']}, }}\n".encode(
        "latin-1"
    )
    if random.random() < 0.15:
        text = random.choice(
            (b"(" * 5000, b"[]", b"{}", b"{" * 90, b"-" * 9000 + b"1", b"\xff" * 20, b"{'descr': open}", b"")
        )
    length = random.choice((len(text),) * 8 + (0, 65535, 2**31))
    head = struct.pack("<H", length & 0xFFFF) if version[0] == 1 else struct.pack("<I", length)
    return b"\x93NUMPY" + bytes(version) + head + text + data[10 + struct.unpack_from("<H", data, 8)[0] :]


NPZ: tuple[Mutation, ...] = (*ZIP, inside(numpy_header, ".npy"), inside(numpy_header, ".npy"), inside(BYTES[0], ".npy"))


# Safetensors ---------------------------------------------------------------------------------------


def in_header(change: Mutation) -> Mutation:
    """The JSON in front changed, and its length with it."""

    def mutated(data: bytes, random: Random) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        header = change(data[8:end], random)
        length = random.choice((len(header),) * 12 + INTERESTING[-6:])
        return struct.pack("<Q", length & (2**64 - 1)) + header + data[end:]

    return mutated


def told(change: Callable[[bytes, Random], bytes], key: str) -> Mutation:
    """What the metadata holds as JSON within the JSON."""
    import json

    def mutated(data: bytes, random: Random) -> bytes:
        header = json.loads(data)
        text = change(header["__metadata__"][key].encode(), random).decode("utf-8", "replace")
        header["__metadata__"][key] = text
        return json.dumps(header).encode()

    return in_header(mutated)


def safetensors(key: str) -> tuple[Mutation, ...]:
    inner = told(changed_json, key)
    return (in_header(changed_json), inner, inner, in_header(BYTES[0]), told(BYTES[0], key))


# Pictures ------------------------------------------------------------------------------------------

_FOREIGN = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\n(x) (w) file closefile\nshowpage\n%%EOF\n",
    b"P6\n30000 30000\n255\n", b"P5 99999999 1 255 ",
    b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x02D\x01\x00;",
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0),
    b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + b"\x00\x00\x75\x30" * 2 + b"\x00\x08\x00\x03" + bytes(14),
    b"/* XPM */\nstatic char * x[] = {\n\"4 5 1 1\",\n", b"II*\x00\x08\x00\x00\x00\xff\xff",
    b"SIMPLE  =                    T",
)  # fmt: skip


def picture(data: bytes, random: Random) -> bytes:
    """A PNG whose parts are changed and summed up again, or what is no PNG under its name."""
    if random.random() < 0.15:
        return random.choice(_FOREIGN)
    parts, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = random.randrange(len(parts))
    kind, content = parts[number]
    if kind == b"IHDR" and random.random() < 0.7:
        sides = struct.pack(">II", *(random.choice((0, 1, 4, 5, 5000, 9000, 30000, 2**31 - 1)) for _ in range(2)))
        parts[number] = (kind, sides + content[8:])
    elif content:
        parts[number] = (kind, random.choice(BYTES)(content, random))
    if random.random() < 0.2:
        bomb = random.choice((b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL"))
        parts.insert(1, (bomb, b"x\0\0" + zlib.compress(bytes(10**7), 9)))
    whole = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return data[:8] + b"".join(whole)


PICTURES: tuple[Mutation, ...] = (picture, picture, picture)
