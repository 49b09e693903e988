"""An unpickler that builds tensors and plain containers, and executes nothing a file asks for."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

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
_DILL_BUILTINS = tuple((module, name) for module in ("builtins", "__builtin__") for name in ("getattr", "setattr"))


class Refused(Exception):
    """The file asks for more than data."""


class Placeholder:
    """Stands for an object of dill that is not built: it accepts whatever is put into it and does nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object) -> Placeholder:
        return self

    def __repr__(self) -> str:
        return f"Placeholder({self.name!r})"


class _Function:
    """A function that a pickle may call; wrapped, since a pickle could set attributes of the function itself."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *values: Any) -> Any:
        return self._function(*values)


class _Dtype:
    """numpy's dtype, as far as scalars in a checkpoint need it."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code


# Based on the unpickler in Python: the one in C would allocate a table as long as a number in the file says.
class Unpickler(pickle._Unpickler):
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Any, find: Callable[[torch.dtype, str, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._find = find

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in _ALLOWED:
            return _Function(_ALLOWED[module, name])
        if module in _STORAGE_MODULES and name in _STORAGES:
            return _STORAGES[name]
        if module.split(".")[0] == "dill" or name in _DILL_NAMES or (module, name) in _DILL_BUILTINS:
            return Placeholder(f"{module}.{name}")
        raise Refused(f"it asks for {module}.{name}, and only tensors, plain containers and numbers are loaded")

    def persistent_load(self, pid: Any, /) -> Tensor:
        kind, dtype, key, _, count, *rest = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view is not None for view in rest):
            raise Refused("it holds something else than tensors")
        return self._find(dtype, str(key), int(count))

    def load_build(self) -> None:
        """Set the state of an object: only placeholders, dtypes and ordered dicts have one, and it is dropped."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (Placeholder, _Dtype, OrderedDict)):
            raise Refused("it sets the insides of an object")

    def load_reduce(self) -> None:
        values, call = self.stack.pop(), self.stack.pop()
        if not isinstance(call, (Placeholder, _Function)):
            raise Refused("it calls something that is no function")
        self.stack.append(call(*values))

    def load_newobj(self) -> None:
        self.load_reduce()

    def _refuse(self) -> None:
        raise Refused("it makes objects in a way torch never does")

    def _put_items(self) -> None:
        """Put items into a dict; those of a placeholder are dropped."""
        items = self.pop_mark()
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Placeholder):
            raise Refused("it puts items into something that is no dict")

    def _put_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        if isinstance(self.stack[-1], dict):
            self.stack[-1][key] = value
        elif not isinstance(self.stack[-1], Placeholder):
            raise Refused("it puts items into something that is no dict")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.SETITEMS[0]: _put_items,
        pickle.SETITEM[0]: _put_item,
        **dict.fromkeys((op[0] for op in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1)), _refuse),
        **dict.fromkeys((op[0] for op in (pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER)), _refuse),
        # It would be allocated as long as a number in the file says, before anything is read.
        pickle.BYTEARRAY8[0]: _refuse,
    }


def _rebuild_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: object) -> Tensor:
    if not isinstance(storage, Tensor) or math.prod(shape) > storage.numel():
        raise Refused("a tensor is larger than its storage")
    return storage.as_strided(tuple(shape), tuple(stride), offset)


def _rebuild_parameter(data: Any, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("a parameter is no tensor")
    return data


def _scalar(dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.code not in ("f8", "f4", "i8", "i4", "b1") or not content:
        raise Refused("it holds a numpy object that is no number")
    return np.frombuffer(content, dtype.code, 1)[0].item()


def _encode(text: str, *_: object) -> bytes:
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}
