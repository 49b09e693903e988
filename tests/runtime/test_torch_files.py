"""Files of torch.save from elsewhere: data is loaded, nothing runs, and anything else is refused in one sentence."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featuregen.errors import UserError
from featuregen.runtime.pickled_objects import Placeholder
from featuregen.runtime.torch_files import read_torch_file

PLAIN: dict[str, Any] = {
    "list": [torch.rand(2, 3), torch.arange(4)],
    "types": tuple(torch.ones(2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.bool, torch.uint8)),
    "view": torch.arange(10.0)[2:8].view(2, 3).t(),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "ordered": OrderedDict(a=1, b={"c": None}),
    "shape": torch.Size([1, 2]),
    "number": 0.5,
}


def same(loaded: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return loaded.dtype == expected.dtype and torch.equal(loaded, expected)
    if isinstance(expected, dict):
        return list(loaded) == list(expected) and all(same(loaded[key], value) for key, value in expected.items())
    if isinstance(expected, (list, tuple)):
        return len(loaded) == len(expected) and all(same(*pair) for pair in zip(loaded, expected, strict=True))
    return bool(loaded == expected)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_data_comes_out_as_it_went_in(tmp_path: Path, zipped: bool, protocol: int) -> None:
    torch.save(PLAIN, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert same(read_torch_file(tmp_path / "x.pt"), PLAIN)


# Hostile -------------------------------------------------------------------------------------------


def archive(path: Path, program: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", **members}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)
    return path


def call(module: str, name: str, *, argument: str = "touch {marker}", opcode: str = "reduce") -> bytes:
    """A pickle that calls a function by one of the ways a pickle has."""
    text = argument.encode()
    way = {
        "reduce": f"c{module}\n{name}\n(V{argument}\ntR.".encode(),
        "inst": f"(V{argument}\ni{module}\n{name}\n.".encode(),
        "obj": b"(" + f"c{module}\n{name}\n".encode() + b"V" + text + b"\no.",
        "newobj": f"c{module}\n{name}\n(V{argument}\nt\x81.".encode("latin-1"),
    }
    return b"\x80\x02" + way[opcode]


ESCAPES = {
    "os.system": call("os", "system"),
    "posix.system": call("posix", "system"),
    "eval": call("builtins", "eval", argument="open('{marker}', 'w')"),
    "exec, python 2": call("__builtin__", "exec", argument="open('{marker}', 'w')"),
    "inst": call("os", "system", opcode="inst"),
    "obj": call("os", "system", opcode="obj"),
    "newobj": call("subprocess", "Popen", opcode="newobj"),
    "torch.load": call("torch", "load", argument="{marker}"),
    "nested": call("torch._utils", "_rebuild_device_tensor_from_numpy", argument="{marker}"),
    "an attribute of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}V__defaults__\nK\x01s\x86b.",
    "what dill imports": (
        b"\x80\x02c__builtin__\ngetattr\ncdill._dill\n_import_module\nVos\n\x85RVsystem\n\x86R(Vtouch {marker}\ntR."
    ),
    "a registered extension": b"\x80\x02\x82\x01.",
    "another storage": b"\x80\x02(Vfile\nV{marker}\nV0\nVcpu\nK\x01tQ.",
    "text that is called": b"\x80\x02Vos.system\n(Vtouch {marker}\ntR.",
    "items of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nVa\nVb\ns.",
}  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES)
def test_nothing_in_a_file_is_run(tmp_path: Path, escape: str) -> None:
    marker = tmp_path / "marker"
    program = ESCAPES[escape].replace(b"{marker}", str(marker).encode())
    pickletools.dis(program, out=io.StringIO())  # a pickle that is none would be refused for that
    path = archive(tmp_path / "x.pt", program)
    try:
        loaded = read_torch_file(path)
    except UserError as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error)
    else:
        assert isinstance(loaded, Placeholder), "only placeholders may come out"
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "torch.load", "numpy.load", "torch.nn.modules.conv.Conv2d"]
)
def test_what_a_file_asks_for_is_named(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    path = archive(tmp_path / "x.pt", call(module, function))
    with pytest.raises(UserError, match=f"it asks for {name}, and only tensors"):
        read_torch_file(path)


# Damaged -------------------------------------------------------------------------------------------


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return f"(Vstorage\nctorch\n{kind}\nV{key}\nVcpu\n".encode() + b"J" + struct.pack("<i", count) + b"tQ"


def tensor(count: int, shape: int, **changes: Any) -> bytes:
    offset, stride = changes.pop("offset", 0), changes.pop("stride", 1)
    numbers = b"".join(b"J" + struct.pack("<i", value) for value in (offset,))
    sizes = b"".join(b"J" + struct.pack("<i", value) + b"\x85" for value in (shape, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count, **changes) + numbers + sizes + b"\x89NtR"


def program(*parts: bytes) -> bytes:
    return b"\x80\x02](" + b"".join(parts) + b"e."


DAMAGE: dict[str, tuple[bytes, dict[str, bytes], str]] = {
    "more than there is": (program(tensor(2**30, 2)), {"data__0": b"1234"}, "declares more numbers than it holds"),
    "fewer bytes": (program(tensor(2, 2)), {"data__0": b"1234"}, "shorter or longer than declared"),
    "no bytes": (program(tensor(2, 2)), {}, "its part data/0 is missing"),
    "beyond the storage": (program(tensor(2, 3)), {"data__0": b"12345678"}, "larger than its storage"),
    "offset": (program(tensor(2, 2, offset=1)), {"data__0": b"12345678"}, "larger than its storage"),
    "far apart": (program(tensor(2, 2, stride=9)), {"data__0": b"12345678"}, "larger than its storage"),
    "negative": (program(tensor(-2, 2)), {"data__0": b"12345678"}, "declares more numbers than it holds"),
    "twice": (
        program(tensor(2, 2), tensor(1, 1, kind="DoubleStorage")),
        {"data__0": b"12345678"},
        "declared twice, and differently",
    ),
    "big-endian": (program(tensor(1, 1)), {"data__0": b"1234", "byteorder": b"big"}, "big-endian"),
    "a program of TorchScript": (program(), {"constants.pkl": b""}, "TorchScript"),
    "endless": (b"\x80\x02]", {}, "it may be truncated"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    content, members, message = DAMAGE[case]
    path = archive(tmp_path / "x.pt", content, **members)
    with pytest.raises(UserError, match=message) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


HALVES: list[tuple[bool, Callable[[bytes], bytes], str]] = [
    *((zipped, lambda content: b"", "begins neither as") for zipped in (True, False)),
    (True, lambda content: b"\x89HDF\r\n\x1a\n", "begins neither as"),
    (True, lambda content: content[: len(content) // 2], "cannot be read"),
    (False, lambda content: content[: len(content) // 2], "declares more numbers than it holds"),
    (False, lambda content: content[:-20], "shorter or longer than declared"),
    *((zipped, lambda content: content[:30], "cannot be read") for zipped in (True, False)),
    (True, lambda content: content.replace(b"data.pkl", b"beta.pkl"), "without torch's data.pkl"),
]


@pytest.mark.parametrize(("zipped", "spoil", "message"), HALVES)
def test_half_a_file_is_told(tmp_path: Path, zipped: bool, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "x.pt"
    torch.save([torch.rand(100)], path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        read_torch_file(path)


def test_compression_and_large_tables_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", program(tensor(2**20, 2)))
        file.writestr("archive/data/0", bytes(2**22))
    with pytest.raises(UserError, match="is compressed, which torch never does"):
        read_torch_file(bomb)
    # A number in a pickle's memo that would make a reader in C allocate gigabytes.
    memo = archive(tmp_path / "memo.pt", b"\x80\x02Va\nr\xff\xff\xff\x7f.")
    assert read_torch_file(memo) == "a"


@pytest.mark.parametrize("name", ["nowhere.pt", "folder.pt"])
def test_no_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(UserError, match=rf"No file .*{name}"):
        read_torch_file(tmp_path / name)


def test_every_flipped_byte_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(3), "b": [1, "text"]}, path, _use_new_zipfile_serialization=False)
    content, outcomes = path.read_bytes(), {"read": 0, "refused": 0}
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :])
        try:
            read_torch_file(path)
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100 and sum(outcomes.values()) == len(content)


def test_a_lack_of_memory_is_not_told_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save([torch.zeros(2)], tmp_path / "x.pt")

    def empty(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr("featuregen.runtime.torch_files.torch.empty", empty)
    with pytest.raises(UserError, match="does not fit into memory"):
        read_torch_file(tmp_path / "x.pt")


def test_a_tensor_that_is_used_often_counts_often(tmp_path: Path) -> None:
    shared = torch.zeros(10_000)
    torch.save({str(number): shared for number in range(4)}, tmp_path / "x.pt")
    assert len(read_torch_file(tmp_path / "x.pt")) == 4
    torch.save({str(number): shared for number in range(20)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="its tensors stand for more than 8 times what it holds"):
        read_torch_file(tmp_path / "x.pt")
