"""Flips single bits of a dataset file, one at a time, and runs `verify` on each result.

    python -m reliability.bit_flips datasets_out/digits-det.h5 [--flips 1000] [--outside] [--out flips.json]

Claim: `verify` reports every flip that changes an array or an attribute as h5py reads them, where a file that h5py can
no longer read counts as changed; and a SHA256SUMS beside the file reveals every flip.
Method: the seed draws the bits, without repetition. Every flip is judged in a separate process, since HDF5 may crash on
a damaged file or never return from it: that counts as changed for h5py, and as missed for `verify`. Nearly all of a
large file is pixels; with `--outside`, flips are in what lies around the arrays: headers, attributes, indexes, names
and unused space.
Needs: Linux, and a dataset that passes `featuregen verify`.
Exit code: 1 if a flip is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featuregen.errors import UserError
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.storage.checksums import SUMS, check_sums
from featuregen.storage.verify import check_file

# Seconds of processor time. A small file takes milliseconds, whatever else the machine does meanwhile.
CPU_LIMIT = 20
# Seconds on the clock, for a process that waits for something that never comes.
HANG_TIMEOUT = 600.0


@dataclass(frozen=True)
class Flip:
    """One bit, and what noticed it; `reported` is None if `verify` gave no answer."""

    bit: int
    summed: bool
    reported: bool | None
    changed: bool

    @property
    def missed(self) -> bool:
        return self.reported is None or (self.changed and not self.reported)


def flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def drawn_bits(path: Path, flips: int, seed: int, outside: bool = False) -> list[int]:
    """Places in a file, or in what lies outside its arrays."""
    drawn = np.ones(path.stat().st_size, dtype=bool)
    if outside:
        for start, size in _stored_arrays(path):
            drawn[start : start + size] = False
    places = np.flatnonzero(drawn)
    if not 0 < flips <= len(places) * 8:
        raise UserError(f"{flips} flips were asked for; there are {len(places) * 8} bits to choose from.")
    chosen = np.random.default_rng(seed).choice(len(places) * 8, flips, replace=False)
    return [int(places[bit // 8]) * 8 + int(bit % 8) for bit in chosen]


def _stored_arrays(path: Path) -> Iterator[tuple[int, int]]:
    """Offset and size of every piece that an array is stored in."""
    with h5py.File(path, "r") as root:
        for array in root.values():
            if array.chunks is None:
                yield array.id.get_offset(), array.id.get_storage_size()
                continue
            for number in range(array.id.get_num_chunks()):
                chunk = array.id.get_chunk_info(number)
                yield chunk.byte_offset, chunk.size


def what_h5py_reads(path: Path, like: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Every array and attribute of a file; None if they cannot be read or have other shapes than those of `like`."""
    found: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as root:
            objects = {"": root} | {name: root[name] for name in root}
            shapes = {name: _shape(member) for name, member in objects.items()}
            # A flipped size may be terabytes, so nothing is read before it is known to be as it was.
            if like is not None and shapes != like["shapes"]:
                return None
            found["shapes"] = shapes
            for name, member in objects.items():
                found |= {f"{name}@{key}": _bytes_of(member.attrs[key]) for key in member.attrs}
                if name:
                    found[name] = _bytes_of(member[()])
    # Whatever it is that h5py says of a damaged file, the file cannot be read.
    except Exception:
        return None
    return found


def _shape(member: Any) -> tuple[Any, ...]:
    array = (member.shape, member.dtype.str) if isinstance(member, h5py.Dataset) else ()
    attributes = ((name, member.attrs.get_id(name)) for name in member.attrs)
    return (type(member), array, {name: (about.shape, about.dtype.str) for name, about in attributes})


def _bytes_of(value: Any) -> tuple[str, bytes]:
    if isinstance(value, str):
        return "text", value.encode("utf-8", "surrogateescape")
    array = np.asarray(value)
    return array.dtype.str, repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()


def _reported(path: Path) -> bool:
    try:
        return not all(check.ok for check in check_file(path))
    except UserError:
        return True


def _sound(path: Path) -> dict[str, Any]:
    """What plain h5py reads of a file that is as it should be."""
    good = what_h5py_reads(path)
    if good is None or _reported(path):
        raise UserError(f"{path} does not pass `featuregen verify` as it is; give a sound file.")
    return good


def judge(path: Path, bits: Sequence[int], cpu_limit: int = CPU_LIMIT) -> list[Flip]:
    """Flip each bit in a copy of the file; the file itself stays as it is."""
    data, good = path.read_bytes(), _sound(path)
    flips: list[Flip] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SUMS).write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n", encoding="utf-8")
        while len(flips) < len(bits):
            # A new process after each one that was stopped or has died.
            with _worker(data, good, bits[len(flips) :], Path(folder) / path.name, cpu_limit) as answers:
                for bit in bits[len(flips) :]:
                    summed = _answer(answers)
                    reported = None if summed is None else _answer(answers)
                    changed = None if reported is None else _answer(answers)
                    flips.append(Flip(bit, bool(summed), reported, changed is not False))
                    if changed is None:
                        break
    return flips


@contextmanager
def _worker(
    data: bytes, good: dict[str, Any], bits: Sequence[int], place: Path, cpu_limit: int
) -> Iterator[Connection]:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(data, good, bits, place, theirs, cpu_limit), daemon=True)
    process.start()
    theirs.close()
    try:
        yield mine
    finally:
        process.kill()
        process.join()
        mine.close()


def _work(
    data: bytes, good: dict[str, Any], bits: Sequence[int], place: Path, answers: Connection, cpu_limit: int
) -> None:
    questions: tuple[Callable[[], bool], ...] = (
        lambda: not all(check.ok for check in check_sums(place)),
        lambda: _reported(place),
        lambda: what_h5py_reads(place, good) != good,
    )
    for bit in bits:
        place.write_bytes(flipped(data, bit))
        for question in questions:
            # The kernel ends a process that computes for longer.
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + cpu_limit, resource.RLIM_INFINITY))
            answers.send(question())


def _answer(answers: Connection) -> bool | None:
    """None if it never comes, or if the process is gone."""
    try:
        return bool(answers.recv()) if answers.poll(HANG_TIMEOUT) else None
    except EOFError:
        return None


def counted(flips: Sequence[Flip]) -> dict[str, int]:
    kinds = Counter((flip.changed, flip.reported) for flip in flips)
    return {
        "flips": len(flips),
        "changed": sum(flip.changed for flip in flips),
        "changed and reported": kinds[True, True],
        "harmless": sum(not flip.changed for flip in flips),
        "harmless and reported": kinds[False, True],
        "missed": sum(flip.missed for flip in flips),
        "missed by SHA256SUMS": sum(not flip.summed for flip in flips),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--outside", action="store_true", help="only in what lies around the arrays")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with the counts and every flip that is missed")
    options = parser.parse_args(arguments)
    try:
        if not options.file.is_file():
            raise UserError(f"No file {options.file}; name a dataset.")
        _sound(options.file)
        bits = drawn_bits(options.file, options.flips, options.seed, options.outside)
        flips = judge(options.file, bits)
        missed = [flip.bit for flip in flips if flip.missed]
        if options.out:
            about = {"bytes": options.file.stat().st_size, "seed": options.seed, "outside": options.outside}
            record = about | {**counted(flips), "bits": missed}
            atomic_write(options.out, json.dumps(record, indent=1) + "\n")
    except UserError as error:
        log(f"error: {error}")
        return 2
    for name, count in counted(flips).items():
        print(f"{count:>8,}  {name}")
    for bit in missed:
        print(f"missed: bit {bit % 8} of byte {bit // 8}")
    return 1 if missed or not all(flip.summed for flip in flips) else 0


if __name__ == "__main__":
    sys.exit(main())
