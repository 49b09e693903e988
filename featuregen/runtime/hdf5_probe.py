"""Reads HDF5 files in processes that may crash, hang or run out of memory.

`hdf5_guard` starts this file as a program. Each line of standard input is a request in JSON: the path of a file, the
names of its data sets that will be used, and limits. A forked process with these limits reads what featuregen will read
of the file, except the values of data sets. Each answer is a line in JSON: what is wrong with the file, or null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py

# Those that come with HDF5 and h5py; for any other number HDF5 looks for a plugin library and runs it.
DEFLATE, SHUFFLE, CHECKSUM, LZF = (
    h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF,
)  # fmt: skip
FILTERS = {DEFLATE, SHUFFLE, CHECKSUM, LZF}
MAX_CHUNK = 1 << 26
# Of the root group: HDF5 reads each attribute in a time that grows with their number.
MAX_ATTRIBUTES, MAX_MEMBERS, MAX_ATTRIBUTE_BYTES = 1000, 1000, 1 << 26
MAX_ATTRIBUTE_VALUES = 4096
_BLOCK = 1 << 20
_CHECKSUM_BYTES = 4


class Refused(Exception):
    """What is wrong with a file, as a clause."""


# What featuregen reads of a file ---------------------------------------------------------------------


def read(path: str, names: Sequence[str], note: Callable[[str], None]) -> None:
    """Read what featuregen's readers will; `note` is told what comes next."""
    note("its header")
    with h5py.File(path, "r", locking=False) as root, open(path, "rb", buffering=0) as file:
        _read_attributes(root, os.fstat(file.fileno()).st_size, note)
        note("the names of its members")
        if len(root) > MAX_MEMBERS:
            raise Refused(f"it has {len(root)} members, and at most {MAX_MEMBERS} are read")
        list(root)
        for name in names:
            note(f"the member '{name}'")
            # A link is not followed.
            if (
                isinstance(root.get(name, getlink=True), h5py.HardLink)
                and root.get(name, getclass=True) is h5py.Dataset
            ):
                _read_data_set(root, name, file.fileno(), note)
        note("its end")


def _read_attributes(root: h5py.File, file_size: int, note: Callable[[str], None]) -> None:
    note("the names of its attributes")
    count = h5py.h5a.get_num_attrs(root.id)
    if count > MAX_ATTRIBUTES:
        raise Refused(f"it has {count} attributes, and at most {MAX_ATTRIBUTES} are read")
    left = min(file_size, MAX_ATTRIBUTE_BYTES)
    for name in root.attrs:
        note(f"the attribute '{name}'")
        attribute = root.attrs.get_id(name)
        kind, shape, size = attribute.get_type(), attribute.shape, attribute.get_storage_size()
        plain = isinstance(kind, (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID))
        # The readers refuse any other before they read it.
        if not plain or shape is None or math.prod(shape) > MAX_ATTRIBUTE_VALUES or size > file_size:
            continue
        value = root.attrs[name]
        texts = [value] if isinstance(value, str | bytes) else value.ravel() if value.dtype.kind == "O" else []
        left -= size + sum(map(len, texts))
        if left < 0:
            raise Refused(f"its attributes hold more than {min(file_size, MAX_ATTRIBUTE_BYTES):,} bytes")


def _read_data_set(root: h5py.File, name: str, file: int, note: Callable[[str], None]) -> None:
    data_set = h5py.h5d.open(root.id, name.encode())
    plan = data_set.get_create_plist()
    # Even the shape of a virtual data set is that of other files.
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        return
    note(f"the shape and the type of '{name}'")
    claimed = math.prod(data_set.shape or ()) * data_set.dtype.itemsize
    h5py.h5a.get_num_attrs(data_set)
    note(f"the chunks of '{name}'")
    stored = data_set.get_storage_size()
    if plan.get_layout() == h5py.h5d.CHUNKED:
        _read_chunks(data_set, plan, name, file)
    elif plan.get_layout() == h5py.h5d.COMPACT and claimed <= stored and data_set.dtype.kind in "biufc":
        note(f"'{name}'")
        root[name][()]


def _read_chunks(data_set: Any, plan: Any, name: str, file: int) -> None:
    """Go through the whole index of chunks. HDF5 trusts that a chunk is, or unpacks to, as many bytes as all others."""
    length = math.prod(plan.get_chunk()) * data_set.get_type().get_size()
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    known = set(filters) <= FILTERS and length <= MAX_CHUNK
    if known and sum(number in (DEFLATE, LZF) for number in filters) > 1:
        raise Refused(f"'{name}' is packed more than once")
    file_size = os.fstat(file).st_size

    def judge(chunk: Any) -> str | None:
        used = [number for place, number in enumerate(filters) if not chunk.filter_mask >> place & 1]
        if not known:
            return None
        if chunk.byte_offset + chunk.size > file_size:
            return "lies beyond the end of the file"
        packer = next((number for number in used if number in (DEFLATE, LZF)), None)
        if packer is None:
            fits = chunk.size == length + _CHECKSUM_BYTES * used.count(CHECKSUM)
        else:
            # Checksums from before the packing are packed, too.
            at = used.index(packer)
            outside, inside = used[at:].count(CHECKSUM), used[:at].count(CHECKSUM)
            packed = chunk.size - _CHECKSUM_BYTES * outside
            unpack = _inflated_size if packer == DEFLATE else _lzf_size
            wanted = length + _CHECKSUM_BYTES * inside
            fits = packed > 0 and unpack(file, chunk.byte_offset, packed, wanted) == wanted
        return None if fits else f"is not {length} bytes long"

    if problem := _first_of_chunks(data_set, judge):
        raise Refused(f"a chunk of '{name}' {problem}")


def _first_of_chunks(data_set: Any, judge: Callable[[Any], str | None]) -> str | None:
    # HDF5 before 1.12.3 cannot go through all of them in one call.
    if hasattr(data_set, "chunk_iter"):
        problem: str | None = data_set.chunk_iter(judge)
        return problem
    chunks = map(data_set.get_chunk_info, range(data_set.get_num_chunks()))
    return next(filter(None, map(judge, chunks)), None)


def _inflated_size(file: int, at: int, size: int, wanted: int) -> int:
    """How many bytes a deflated chunk unpacks to; -1 if it is not whole, or larger than `wanted`."""
    inflate, found, end = zlib.decompressobj(), 0, at + size
    while at < end and not inflate.eof:
        data = os.pread(file, min(_BLOCK, end - at), at)
        if not data:
            return -1
        at += len(data)
        while data and not inflate.eof:
            found += len(inflate.decompress(data, _BLOCK))
            data = inflate.unconsumed_tail
            if found > wanted:
                return -1
    return found if inflate.eof else -1


def _lzf_size(file: int, at: int, size: int, wanted: int) -> int:
    """How many bytes a chunk packed with LZF unpacks to; -1 if it is not whole, or larger than `wanted`."""
    data, position, found = os.pread(file, size, at), 0, 0
    while position < len(data) and found <= wanted:
        control = data[position]
        position += 1
        if control < 32:
            # As many bytes follow, and one more.
            position += control + 1
            found += control + 1
            continue
        # A copy of earlier bytes: the length, with a further byte if it is long, and the distance.
        length = control >> 5
        if length == 7:
            length += data[position] if position < len(data) else 0
            position += 1
        found += length + 2
        position += 1
    return found if position == len(data) == size and found <= wanted else -1


# The processes ---------------------------------------------------------------------------------------


def answer(request: Mapping[str, Any], requests: int) -> str | None:
    """What is wrong with a file. Ends itself if `requests` is closed meanwhile, since nobody waits for the answer."""
    journal, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(journal)
        _read_and_exit(request, end)
    os.close(end)
    said = b""
    try:
        while True:
            ready, _, _ = select.select([journal, requests], [], [])
            if journal not in ready:
                os.kill(child, signal.SIGKILL)
                sys.exit()
            data = os.read(journal, 1 << 16)
            if not data:
                break
            said = (said + data)[-(1 << 17) :]
    finally:
        os.close(journal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    *_, last = said.decode("utf-8", "replace").splitlines() or [""]
    if last.startswith("="):
        return last[1:] or None
    return _how_it_ended(code, last[1:], request)


def _how_it_ended(code: int, doing: str, request: Mapping[str, Any]) -> str:
    doing = doing or "its header"
    if -code == signal.SIGXCPU:
        return f"HDF5 had not read {doing} after {request['cpu_seconds']} seconds of work"
    if -code == signal.SIGALRM:
        return f"HDF5 had not read {doing} after {request['seconds']} seconds"
    if -code == signal.SIGKILL:
        return f"the system ended the process that read {doing}, perhaps for lack of memory"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"HDF5 crashed ({name}) while it read {doing}"


def _read_and_exit(request: Mapping[str, Any], journal: int) -> None:
    doing = problem = ""

    def note(text: str) -> None:
        nonlocal doing
        doing = _one_line(text, 100)
        os.write(journal, f">{doing}\n".encode())

    try:
        _limit(request)
        read(request["path"], request["names"], note)
    except MemoryError:
        problem = f"{doing} takes more than {request['memory'] >> 20} MiB of memory"
    except Refused as error:
        problem = _one_line(str(error), 600)
    except BaseException as error:
        # HDF5 names the call that failed and, in parentheses, the reason.
        called, _, reason = _one_line(str(error), 600).rstrip(".").partition(" (")
        problem = f"{doing} cannot be read ({reason.removesuffix(')') or called or type(error).__name__})"
    os.write(journal, f"={problem}\n".encode())
    os._exit(0)


def _one_line(text: str, length: int) -> str:
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())[:length]


def _limit(request: Mapping[str, Any]) -> None:
    seconds: int = request["cpu_seconds"]
    # At the second limit the kernel would kill instead.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Neither signal is ever handled here, so that no loop of HDF5 can delay them.
    signal.alarm(request["seconds"])
    # Not every system tells how much is used, or takes a limit.
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + request["memory"], used + request["memory"]))


def main() -> None:
    # What a crashing process says is told by its signal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    requests = sys.stdin.buffer
    for line in iter(requests.readline, b""):
        sys.stdout.write(json.dumps(answer(json.loads(line), requests.fileno())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
