"""What a pickle of torch.save may ask for by name, each with its arguments checked, and the budget it has for that."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
# Names with which dill builds functions, classes and modules, none of which weights need.
_DILL_NAMES = ("__dict__", "__main__")
_NOT_BUILT = tuple(
    (module, name) for module in ("builtins", "__builtin__") for name in ("getattr", "setattr", "set", "frozenset")
)
# A checkpoint of ResNet-50 takes 40,000 operations and 80 KB.
_MAX_OPERATIONS, _MAX_BYTES = 1_000_000, 8 << 20
# What making an object costs, in operations.
CALL = 20
# Characters of a name, bytes of a line, and what one tensor may have.
_MAX_NAME, _MAX_LINE, _MAX_DIMENSIONS, _MAX_SIZE = 1000, 4096, 32, 2**48


class Refused(Exception):
    """The file asks for more than data, or for too much."""


class Program:
    """The pickles of a file, and what is left of their budget."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._operations, self._bytes = file, _MAX_OPERATIONS, _MAX_BYTES

    def read(self, count: int) -> bytes:
        # Before reading, since Python sets aside as many bytes as are asked for.
        self.spend_bytes(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise Refused(f"a line of its pickle is longer than {_MAX_LINE} bytes")
        self.spend_bytes(len(line))
        return line

    def spend(self, operations: int) -> None:
        self._operations -= operations
        if self._operations < 0:
            raise Refused(f"its pickle has more than {_MAX_OPERATIONS:,} operations, and no checkpoint needs so many")

    def spend_bytes(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise Refused(f"its pickle asks for more than {_MAX_BYTES >> 20} MiB, and no checkpoint needs so much")


class Placeholder:
    """Stands for an object that is not built, such as a function or a set: what is put into it is dropped."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Placeholder({self.name!r})"


class Storage:
    """Numbers that tensors are views of; no tensor itself, so that no other tensor can take its place."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers


class Dtype:
    """numpy's dtype, as far as scalars in a checkpoint need it."""

    def __init__(self, code: str) -> None:
        self.code = code


class Function:
    """A function that a pickle may call, with the tuple of its arguments."""

    def __init__(self, call: Callable[[Program, tuple[Any, ...]], Any]) -> None:
        self.call = call


def named(module: Any, name: Any) -> Function | torch.dtype | Placeholder:
    """What a pickle asks for by name."""
    if not (is_name(module) and is_name(name)):
        raise Refused("it asks for something without a name")
    if (module, name) in _FUNCTIONS:
        return _FUNCTIONS[module, name]
    if module in _STORAGE_MODULES and name in _STORAGES:
        return _STORAGES[name]
    if module.split(".")[0] == "dill" or name in _DILL_NAMES or (module, name) in _NOT_BUILT:
        return Placeholder(f"{module}.{name}")
    raise Refused(f"it asks for {module}.{name}, and only tensors, plain containers and numbers are loaded")


# Checks --------------------------------------------------------------------------------------------


def is_name(value: Any) -> bool:
    return type(value) is str and len(value) <= _MAX_NAME


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_SIZE


def put_items(target: Any, items: list[Any]) -> None:
    """Put keys and values, which alternate, into a dict; those of a placeholder are dropped."""
    if isinstance(target, Placeholder):
        return
    if not isinstance(target, dict):
        raise Refused("it puts items into something that is no dict")
    for key in items[::2]:
        # The hash of a tuple goes through all that the tuple stands for, and larger numbers can have equal hashes.
        number = type(key) is int and -(2**63) <= key < 2**63
        if not (number or is_name(key) or type(key) in (float, bool, type(None))):
            raise Refused("a key of one of its dicts is no short text and no number")
    target.update(zip(items[::2], items[1::2], strict=True))


def _sizes(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > _MAX_DIMENSIONS or not all(map(is_size, value)):
        raise Refused("the shape of a tensor is no list of sizes")
    return tuple(value)


# Functions -----------------------------------------------------------------------------------------


def _rebuild_tensor(_: Program, values: tuple[Any, ...]) -> Tensor:
    if len(values) < 4 or not isinstance(values[0], Storage) or not is_size(values[1]):
        raise Refused("a tensor is made of something else than numbers")
    numbers, offset, shape, stride = values[0].numbers, values[1], _sizes(values[2]), _sizes(values[3])
    # Checked here, since torch multiplies sizes without a look at what 64 bits hold.
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if (
        count > numbers.numel()
        or (count and last >= numbers.numel())
        or math.prod(max(1, n) for n in shape) > _MAX_SIZE
    ):
        raise Refused("a tensor is larger than its storage")
    return numbers.as_strided(shape, stride, offset if count else 0)


def _rebuild_parameter(_: Program, values: tuple[Any, ...]) -> Tensor:
    if not values or not isinstance(values[0], Tensor):
        raise Refused("a parameter is no tensor")
    return values[0]


def _ordered_dict(program: Program, values: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    """An empty one, or one of pairs, as Python 2 wrote it."""
    made: OrderedDict[Any, Any] = OrderedDict()
    pairs = values[0] if values else []
    if len(values) > 1 or not isinstance(pairs, list):
        raise Refused("an ordered dict is made of something else than pairs")
    # What is made of one list again and again costs its length each time.
    program.spend(len(pairs))
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise Refused("an ordered dict is made of something else than pairs")
        put_items(made, list(pair))
    return made


def _size(_: Program, values: tuple[Any, ...]) -> tuple[int, ...]:
    if len(values) != 1:
        raise Refused("the shape of a tensor is no list of sizes")
    return _sizes(values[0])


def _dtype(_: Program, values: tuple[Any, ...]) -> Dtype:
    if not values or not is_name(values[0]):
        raise Refused("a numpy type has no name")
    return Dtype(values[0])


def _scalar(_: Program, values: tuple[Any, ...]) -> Any:
    dtype, content = values if len(values) == 2 else (None, None)
    if not isinstance(dtype, Dtype) or dtype.code not in ("f8", "f4", "i8", "i4", "b1") or type(content) is not bytes:
        raise Refused("it holds a numpy object that is no number")
    if len(content) != np.dtype(dtype.code).itemsize:
        raise Refused("it holds a numpy number of another length")
    return np.frombuffer(content, dtype.code)[0].item()


def _encode(program: Program, values: tuple[Any, ...]) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if not values or type(values[0]) is not str:
        raise Refused("it encodes something else than text")
    program.spend_bytes(len(values[0]))
    return values[0].encode("latin-1")


_FUNCTIONS = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("torch", "Size"): Function(_size),
    ("numpy", "dtype"): Function(_dtype),
    ("numpy.core.multiarray", "scalar"): Function(_scalar),
    ("numpy._core.multiarray", "scalar"): Function(_scalar),
    ("_codecs", "encode"): Function(_encode),
}
