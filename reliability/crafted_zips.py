"""Zip archives whose directory lies, made from a good one."""

from __future__ import annotations

import io
import struct
import zipfile

_ENTRY, _LOCAL, _END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
# Where the fields of an entry of the directory, and of the record at the end, begin.
_FLAGS, _METHOD, _SUM, _PACKED, _SIZE, _NAME, _EXTRA, _OFFSET = 8, 10, 16, 20, 24, 28, 30, 42
_ENTRIES, _DIRECTORY_SIZE, _DIRECTORY, _COMMENT = 10, 12, 16, 20


def archives(good: bytes) -> dict[str, bytes]:
    """Every case by its name."""
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    folder = next(iter(parts)).split("/")[0]
    data = f"{folder}/data/0"

    def entry(name: str) -> int:
        return good.index(name.encode(), good.index(_ENTRY)) - 46

    def changed(at: int, form: str, value: int) -> bytes:
        return good[:at] + struct.pack(form, value) + good[at + struct.calcsize(form) :]

    def with_part(name: str, content: bytes = b"") -> bytes:
        return packed({**parts, name: content})

    end, pickled = good.rindex(_END), f"{folder}/data.pkl"
    made = {
        f"{what} of {name}": changed(entry(name) + field, form, value)
        for name in (pickled, data)
        for what, field, form, value in (
            ("an encrypted flag", _FLAGS, "<H", 1), ("another method", _METHOD, "<H", 8), ("lzma", _METHOD, "<H", 14),
            ("an unknown method", _METHOD, "<H", 99), ("a wrong sum", _SUM, "<I", 7),
            ("a size of 4 GB", _SIZE, "<I", 2**32 - 2),
            ("packed to 4 GB", _PACKED, "<I", 2**32 - 2), ("a size of zip64", _SIZE, "<I", 2**32 - 1),
            ("a name of 65,535", _NAME, "<H", 65535), ("extras of 65,535", _EXTRA, "<H", 65535),
            ("the place of zip64", _OFFSET, "<I", 2**32 - 1), ("a place beyond", _OFFSET, "<I", 2**31),
            ("the place of the first", _OFFSET, "<I", 0), ("a place in another", _OFFSET, "<I", 9),
        )
    }  # fmt: skip
    made |= {
        f"the end says {what}": changed(end + field, form, value)
        for what, field, form, value in (
            ("65,535 parts", _ENTRIES, "<H", 65535), ("a directory of 4 GB", _DIRECTORY_SIZE, "<I", 2**32 - 2),
            ("a directory of nothing", _DIRECTORY_SIZE, "<I", 0), ("a directory beyond", _DIRECTORY, "<I", 2**32 - 2),
            ("a directory at 0", _DIRECTORY, "<I", 0), ("a comment of 65,535", _COMMENT, "<H", 65535),
        )
    }  # fmt: skip
    for number, value in enumerate((0, 1, 2**31, 2**63, 2**64 - 1)):
        made[f"zip64 nonsense {number}"] = _with_zip64(good, end, value)
    made |= {
        "no end": good[:end],
        "only a beginning": good[:30],
        "no parts": _LOCAL + packed({}),
        "a million parts": _many_parts(good, entry(data), end, 1_000_000),
        "forty thousand parts": _many_parts(good, entry(data), end, 40_000),
        "a part twice": _many_parts(good, entry(data), end, 2),
        "overlapping parts": _overlapping(parts, folder),
        "packed numbers": packed(parts, zipfile.ZIP_DEFLATED),
        "a packed bomb": packed({**parts, pickled: bytes(1 << 24)}, zipfile.ZIP_DEFLATED),
        "a large pickle": packed({**parts, pickled: bytes(1 << 24)}),
        "a name of 60,000": with_part(f"{folder}/" + "x" * 60_000),
        "a folder of 60,000": packed({"x" * 60_000 + "/data.pkl": parts[pickled]}),
        "a name of escapes": with_part(f"{folder}/\x1b]0;pwned\x07\x1b[2J"),
        "a folder of escapes": packed({"\x1b[2J\u202e/data.pkl": b"\x80\x02}."}),
        "two pickles": with_part("other/data.pkl", parts[pickled]),
        "a pickle that is a folder": packed({f"{pickled}/": b""}),
        "a program of TorchScript": with_part(f"{folder}/constants.pkl"),
        "numbers of other machines": with_part(f"{folder}/byteorder", b"big"),
        "numbers missing": packed({name: content for name, content in parts.items() if name != data}),
        "numbers too short": packed({**parts, data: b"1"}),
        "an archive behind an archive": good + good[:end],
    }
    return {f"zip: {kind}": content for kind, content in made.items()}


def packed(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, data in parts.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            file.writestr(info, data)
    return content.getvalue()


def _ending(parts: int, size: int, begin: int) -> bytes:
    return _END + struct.pack("<HHHHIIH", 0, 0, parts, parts, size, begin, 0)


def _many_parts(good: bytes, entry: int, end: int, count: int) -> bytes:
    """The directory names one part again and again."""
    begin = good.index(_ENTRY)
    directory = good[begin:entry] + good[entry:end] * count
    return good[:begin] + directory + _ending(min(count, 65535), len(directory), begin)


def _overlapping(parts: dict[str, bytes], folder: str) -> bytes:
    """A part within another part, and the directory names both."""
    inner = packed({f"{folder}/data/1": bytes(16)})
    record, entry = inner[: inner.index(_ENTRY)], inner[inner.index(_ENTRY) : inner.rindex(_END)]
    outer = packed({**parts, f"{folder}/wide": record})
    begin = outer.index(_ENTRY)
    entry = entry[:_OFFSET] + struct.pack("<I", outer.index(record)) + entry[_OFFSET + 4 :]
    directory = outer[begin : outer.rindex(_END)] + entry
    return outer[:begin] + directory + _ending(len(parts) + 2, len(directory), begin)


def _with_zip64(good: bytes, end: int, value: int) -> bytes:
    """The record of large archives, with one number everywhere, and an end that points to it."""
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, value, value, value, value)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, min(value, 2**64 - 1), 1)
    return good[:end] + record + locator + _ending(65535, 2**32 - 1, 2**32 - 1)
