"""Shards of one set into one file, which is then the file that a single run makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from featuregen.errors import CheckFailed, UserError
from featuregen.runtime import progress
from featuregen.storage.reader import DatasetInfo, read_columns, read_info
from featuregen.storage.schema import (
    COLUMNS,
    Array,
    Header,
    column_dtype,
    difference,
    row_blocks,
)
from featuregen.storage.verify import check_file
from featuregen.storage.writer import Writer, check_compatible

MARK = "shard"
_NAMED = 5


@dataclass(frozen=True)
class Part:
    """A shard as its file tells it: `number` of `of`, whose first row is row `first` of `rows`."""

    info: DatasetInfo
    number: int
    of: int
    rows: int
    first: int

    @property
    def path(self) -> Path:
        return self.info.path

    @property
    def end(self) -> int:
        return self.first + self.info.rows


def merge_shards(paths: Sequence[Path], out: Path, force: bool = False, remove: bool = False) -> DatasetInfo:
    """Check that these are all shards of one set and sound, copy their rows in order, and check the result.

    With `remove` the shards go after that; those that are gone already went when an earlier run was stopped.
    """
    left = [path for path in paths if path.exists()]
    if remove and not force and not left and _made_of(out, len(paths)):
        return _sound(out)
    parts = _of_one_set([_part(path) for path in (left if remove and left and out.exists() else paths)])
    header = _header(parts)
    if any(out.exists() and out.samefile(part.path) for part in parts):
        raise UserError(f"{out} is one of the shards; name another file with --out.")
    if force or not check_compatible(out, header):
        _refuse_gaps(parts)
        for part in progress(parts, "checking shards", len(parts)):
            _check(part)
    with Writer.open(out, header, force) as writer:
        if not writer.complete:
            for columns in _rows(parts, writer.rows_done):
                writer.append(columns)
            writer.finish(remarks={"shards": str(len(parts))})
    info = _sound(out)
    for path in paths if remove else ():
        path.unlink(missing_ok=True)
    return info


def _made_of(out: Path, shards: int) -> bool:
    return out.exists() and read_info(out).software.get("shards") == str(shards)


def _sound(out: Path) -> DatasetInfo:
    failed = [check for check in check_file(out) if not check.ok]
    if failed:
        raise CheckFailed(
            f"{out}: {failed[0].name}: {failed[0].detail}; shards that are there are kept, so merge again with --force"
        )
    return read_info(out)


def _part(path: Path) -> Part:
    info = read_info(path)
    mark = info.recipe.get(MARK)
    told: list[Any] = [mark.get(name) for name in ("number", "of", "rows", "first")] if isinstance(mark, dict) else []
    if not told or not all(type(number) is int and 0 <= number < 2**53 for number in told):
        raise UserError(f"{path} is no shard; give the files that make-dataset --shard wrote.")
    return Part(info, *told)


def _of_one_set(given: list[Part]) -> list[Part]:
    """In order; refused if any is of another set, or there twice."""
    first = given[0]
    wanted = _identity(first)
    for part in given[1:]:
        if odd := difference(_identity(part), wanted, ("in this one", "in the other")):
            raise UserError(f"{part.path} is a shard of another set than {first.path}: {odd}.")
    parts = sorted(given, key=lambda part: part.number)
    for one, other in pairwise(parts):
        if one.number == other.number:
            both = f"{one.path} and {other.path} are both" if one.path != other.path else f"{one.path} is given twice,"
            raise UserError(f"{both} shard {one.number} of {one.of}; give each shard once.")
    return parts


def _refuse_gaps(parts: list[Part]) -> None:
    first, there = parts[0], {part.number for part in parts}
    if lost := first.of - len(parts):
        # A hostile file may claim to be one of billions.
        names = list(islice((number for number in range(1, first.of + 1) if number not in there), _NAMED))
        words = ", ".join(map(str, names)) + (f" and {lost - len(names)} more" if lost > len(names) else "")
        example = f"--shard {names[0]}/{first.of}"
        raise UserError(
            f"Of {first.of} shards, {words} {'are' if lost > 1 else 'is'} missing; make them with {example}."
        )
    ends = [0, *(part.end for part in parts)]
    for part, end in zip(parts, ends, strict=False):
        if part.first != end:
            raise UserError(
                f"{part.path} begins at row {part.first} where row {end} is missing; make the shards again."
            )
    if ends[-1] != first.rows:
        raise UserError(f"The shards hold {ends[-1]} of {first.rows} rows; make them again.")


def _identity(part: Part) -> dict[str, Any]:
    """What shards of one set have in common."""
    header = part.info.header()
    return replace(header, rows=1, recipe=_plain(header)).identity() | {"shards": part.of, "rows": part.rows}


def _plain(header: Header) -> dict[str, Any]:
    return {name: value for name, value in header.recipe.items() if name != MARK}


def _header(parts: list[Part]) -> Header:
    """That of a single run; machines and remarks that differ from shard to shard are all told."""
    header = parts[0].info.header()
    told = [part.info.software for part in parts]
    names = dict.fromkeys(name for software in told for name in software)
    software = {name: "; ".join(dict.fromkeys(str(each[name]) for each in told if name in each)) for name in names}
    return replace(header, rows=parts[0].rows, recipe=_plain(header), software=software)


def _check(part: Part) -> None:
    failed = [check for check in check_file(part.path) if not check.ok]
    if failed:
        raise UserError(
            f"{part.path} is damaged ({failed[0].name}: {failed[0].detail}); get it again, or make it again with "
            f"--shard {part.number}/{part.of} --force."
        )


def _rows(parts: list[Part], done: int) -> Iterator[dict[str, Array]]:
    """Every column from row `done` of the whole on, in blocks that fit memory."""
    for part in progress(parts, "merging", len(parts)):
        row_bytes = math.prod(part.info.image_shape) * column_dtype("images", part.info.dtype).itemsize
        skipped = max(0, done - part.first)
        for block in row_blocks(max(0, part.info.rows - skipped), row_bytes):
            rows = slice(skipped + block.start, skipped + block.stop)
            yield read_columns(part.path, list(COLUMNS), rows)
