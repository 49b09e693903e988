"""An interpreter of pickles that builds tensors and plain containers, and executes nothing a file asks for.

`pickletools` reads the operations, and each costs a part of a budget. Every value is checked before it is hashed,
multiplied or called: in a few hundred bytes, a pickle can double a tuple until its hash takes years.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, cast

import torch
from torch import Tensor

from featuregen.runtime.pickled_objects import (
    CALL,
    Dtype,
    Function,
    Placeholder,
    Program,
    Refused,
    Storage,
    is_name,
    is_size,
    named,
    put_items,
)

# Bits of a whole number: torch's magic number has 80.
_MAX_BITS = 128
# The content as a tree, in which what is used twice counts twice; its tensors may be as large as this many files.
_MAX_VALUES, _MAX_DEPTH, _MAX_SHARED = 1_000_000, 32, 8


class Unpickler:
    """Carries out one pickle; `find` gives the numbers of a storage by type, key and count."""

    def __init__(self, program: Program, find: Callable[[torch.dtype, str, int], Tensor]) -> None:
        self._program, self._find = program, find
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], self._program)):
            self._program.spend(1)
            name = operation.name
            if name in _PUSHED:
                self._stack.append(_checked(argument))
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            else:
                raise Refused("it makes objects in a way torch never does")
        return self._stack.pop()

    def _pop_many(self) -> list[Any]:
        """What is on the stack above the last mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_many()

    def _pop_mark(self, _: None) -> None:
        self._pop_many()

    def _dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, number: int | None) -> None:
        # Numbers beyond 32 bits could be chosen to have equal hashes.
        if number is not None and not 0 <= number < 2**32:
            raise Refused("it numbers its values in a way torch never does")
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _text(self, text: str) -> None:
        # Python 2 wrote bytes where it meant text; pickletools reads them as latin-1.
        self._stack.append(text.encode("latin-1").decode("utf-8"))

    # Containers ------------------------------------------------------------------------------------

    def _empty_list(self, _: None) -> None:
        self._stack.append([])

    def _empty_dict(self, _: None) -> None:
        self._stack.append({})

    def _list(self, _: None) -> None:
        items = self._pop_many()
        self._stack.append(items)

    def _tuple(self, _: None) -> None:
        items = tuple(self._pop_many())
        self._stack.append(items)

    def _dict(self, _: None) -> None:
        items = self._pop_many()
        made: dict[Any, Any] = {}
        put_items(made, items)
        self._stack.append(made)

    def _short_tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError("its stack is empty")
        items = tuple(self._stack[-length:])
        self._stack[-length:] = [items]

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _append_many(self, _: None) -> None:
        self._extend(self._pop_many())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise Refused("it puts items into something that is no list")

    def _set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        put_items(self._stack[-1], [key, value])

    def _set_items(self, _: None) -> None:
        items = self._pop_many()
        put_items(self._stack[-1], items)

    def _add_items(self, _: None) -> None:
        self._pop_many()
        if not isinstance(self._stack[-1], Placeholder):
            raise Refused("it puts items into something that is no set")

    def _frozen_set(self, _: None) -> None:
        self._pop_many()
        self._stack.append(_SET)

    # Objects ---------------------------------------------------------------------------------------

    def _global(self, pair: str) -> None:
        self._program.spend(CALL)
        self._stack.append(named(*pair.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        self._program.spend(CALL)
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(named(module, name))

    def _reduce(self, _: None) -> None:
        values, called = self._stack.pop(), self._stack.pop()
        self._program.spend(CALL)
        if isinstance(called, Function) and type(values) is tuple:
            self._stack.append(called.call(self._program, values))
        elif isinstance(called, Placeholder):
            self._stack.append(called)
        else:
            raise Refused("it calls something that is no function")

    def _build(self, _: None) -> None:
        """Set the state of an object: only placeholders, dtypes and ordered dicts have one, and it is dropped."""
        self._stack.pop()
        if not isinstance(self._stack[-1], (Placeholder, Dtype, OrderedDict)):
            raise Refused("it sets the insides of an object")

    def _persistent(self, _: None) -> None:
        pid = self._stack.pop()
        self._program.spend(CALL)
        if type(pid) is not tuple or len(pid) not in (5, 6) or type(pid[0]) is not str or pid[0] != "storage":
            raise Refused("it holds something else than tensors")
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            raise Refused("it holds something else than tensors")
        if not is_name(key):
            raise Refused("one of its storages has no name")
        if not is_size(count):
            raise Refused("it declares more numbers than it holds")
        self._stack.append(Storage(self._find(dtype, key, count)))

    def _protocol(self, number: int) -> None:
        if number > 5:
            raise Refused(f"its pickle has protocol {number}, and the last one is 5")

    def _nothing(self, _: Any) -> None:
        """For operations that only help a reader along."""


def _checked(value: Any) -> Any:
    if type(value) is int and value.bit_length() > _MAX_BITS:
        raise Refused(f"it holds a whole number of {value.bit_length():,} bits, and {_MAX_BITS} are read")
    return value


_SET = Placeholder("set")
# Operations that put their argument on the stack, those that put a constant there, and those that do something.
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_SET": _SET}
_OPERATIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": Unpickler._protocol,
    **dict.fromkeys(("FRAME", "STOP"), Unpickler._nothing),
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": Unpickler._pop_mark,
    "DUP": Unpickler._dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Unpickler._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Unpickler._get),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), Unpickler._text),
    "EMPTY_LIST": Unpickler._empty_list,
    "EMPTY_DICT": Unpickler._empty_dict,
    "LIST": Unpickler._list,
    "TUPLE": Unpickler._tuple,
    "DICT": Unpickler._dict,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "APPEND": Unpickler._append,
    "APPENDS": Unpickler._append_many,
    "SETITEM": Unpickler._set_item,
    "SETITEMS": Unpickler._set_items,
    "ADDITEMS": Unpickler._add_items,
    "FROZENSET": Unpickler._frozen_set,
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Unpickler._reduce),
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}


def check_size(content: Any, file_size: int) -> None:
    """Refuse content that would take long to go through, as a tree in which what is used twice counts twice."""
    level, values, depth, held = [content], 1, 0, 0
    while level:
        held += sum(node.numel() * node.element_size() for node in level if isinstance(node, Tensor))
        containers = [node for node in level if isinstance(node, (dict, list, tuple))]
        values, depth = values + sum(map(len, containers)), depth + 1
        if values > _MAX_VALUES:
            raise Refused(f"it stands for more than {_MAX_VALUES:,} values")
        if depth > _MAX_DEPTH:
            raise Refused(f"it is nested more than {_MAX_DEPTH} levels deep")
        if held > _MAX_SHARED * file_size:
            raise Refused(f"its tensors stand for more than {_MAX_SHARED} times what it holds")
        level = [child for node in containers for child in (node.values() if isinstance(node, dict) else node)]
