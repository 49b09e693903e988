"""Merging shards into one file, equal to the file that a single run writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from featuregen.errors import CheckFailed, UserError
from featuregen.runtime.console import progress
from featuregen.storage.reader import DatasetInfo, column_blocks, read_info
from featuregen.storage.schema import Header, difference
from featuregen.storage.verify import check_file
from featuregen.storage.writer import Writer, check_compatible

# The key in a shard's recipe under which it records which part of the dataset it is.
SHARD_KEY = "shard"
# How many missing shards a message lists.
_LISTED = 5


@dataclass(frozen=True)
class _Shard:
    """A shard as its file records it: `number` of `of`, whose first row is row `first` of `rows`."""

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


def merge(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], force: bool = False, remove: bool = False
) -> DatasetInfo:
    """Merge all shards of a dataset into one file, which equals the file of a single run.

    Every shard is checked before, and the merged file after. An interrupted merge resumes when it is called again.

    Args:
        paths: The files that `make-dataset --shard` wrote, in any order.
        out: The file to write.
        force: Overwrite another file at `out`.
        remove: Delete the shards once the merged file has passed its checks. Shards that are gone already count as
            deleted by an earlier, interrupted call.

    Returns:
        What the merged file records.

    Raises:
        UserError: Shards are missing, damaged, repeated, or of different datasets, or `out` is another file.
        CheckFailed: The merged file fails a check.

    Example:
        >>> import featuregen as fg
        >>> from featuregen.experiment.shards import make_shard, parse_shard
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> tiny += ["synthesis.det.batch_size=10"]
        >>> exp = fg.Experiment("digits", out="sharded", overrides=tiny)
        >>> shards = [make_shard(exp, "det", "sharded/det.h5", parse_shard(text)).path for text in ("1/2", "2/2")]
        >>> fg.merge(shards, "sharded/det.h5").rows
        20
    """
    files, out = [Path(path) for path in paths], Path(out)
    left = [file for file in files if file.exists()]
    if remove and not force and not left and _is_merged(out, len(files)):
        return _checked_info(out)
    shards = _sort_shards([_read_shard(file) for file in (left if remove and left and out.exists() else files)])
    header = _merged_header(shards)
    if any(out.exists() and out.samefile(shard.path) for shard in shards):
        raise UserError(f"{out} is one of the shards; name another file with --out.")
    if force or not check_compatible(out, header):
        _refuse_gaps(shards)
        for shard in progress(shards, "checking shards", len(shards)):
            _check_shard(shard)
    with Writer.open(out, header, force) as writer:
        if not writer.complete:
            for shard in progress(shards, "merging", len(shards)):
                if writer.rows_done < shard.end:
                    for _, columns in column_blocks(shard.path, writer.rows_done - shard.first):
                        writer.append(columns)
            writer.finish(remarks={"shards": str(len(shards))})
    info = _checked_info(out)
    for file in files if remove else ():
        file.unlink(missing_ok=True)
    return info


def _is_merged(out: Path, shards: int) -> bool:
    return out.exists() and read_info(out).software.get("shards") == str(shards)


def _checked_info(out: Path) -> DatasetInfo:
    failed = [check for check in check_file(out) if not check.ok]
    if failed:
        raise CheckFailed(
            f"{out}: {failed[0].name}: {failed[0].detail}; shards that are there are kept, so merge again with --force"
        )
    return read_info(out)


def _read_shard(path: Path) -> _Shard:
    info = read_info(path)
    if SHARD_KEY not in info.recipe:
        raise UserError(f"{path} is no shard; give the files that make-dataset --shard wrote.")
    return _Shard(info, **{name: info.recipe[SHARD_KEY][name] for name in ("number", "of", "rows", "first")})


def _sort_shards(shards: list[_Shard]) -> list[_Shard]:
    """By number; refused if they are of different datasets, or if one is there twice."""
    first = shards[0]
    for shard in shards[1:]:
        if clause := difference(_identity(shard), _identity(first), ("in this one", "in the other")):
            raise UserError(f"{shard.path} is a shard of another set than {first.path.name}: {clause}.")
    shards = sorted(shards, key=lambda shard: shard.number)
    for one, other in pairwise(shards):
        if one.number == other.number:
            both = f"{one.path} and {other.path} are both" if one.path != other.path else f"{one.path} is given twice,"
            raise UserError(f"{both} shard {one.number} of {one.of}; give each shard once.")
    return shards


def _refuse_gaps(shards: list[_Shard]) -> None:
    first, numbers = shards[0], {shard.number for shard in shards}
    if missing := first.of - len(shards):
        # Not a list of all: a hostile file may claim to be one of billions.
        listed = list(islice((number for number in range(1, first.of + 1) if number not in numbers), _LISTED))
        text = ", ".join(map(str, listed)) + (f" and {missing - len(listed)} more" if missing > len(listed) else "")
        raise UserError(
            f"Of {first.of} shards, {text} {'are' if missing > 1 else 'is'} missing; "
            f"make them with --shard {listed[0]}/{first.of}."
        )
    ends = [0, *(shard.end for shard in shards)]
    for shard, end in zip(shards, ends, strict=False):
        if shard.first != end:
            raise UserError(
                f"{shard.path} begins at row {shard.first} where row {end} is missing; make the shards again."
            )
    if ends[-1] != first.rows:
        raise UserError(f"The shards hold {ends[-1]} of {first.rows} rows; make them again.")


def _identity(shard: _Shard) -> dict[str, Any]:
    """What all shards of a dataset have in common."""
    header = replace(shard.info.header(), rows=1, recipe=_merged_recipe(shard))
    return header.identity() | {"shards": shard.of, "rows": shard.rows}


def _merged_recipe(shard: _Shard) -> dict[str, Any]:
    return {name: value for name, value in shard.info.recipe.items() if name != SHARD_KEY}


def _merged_header(shards: list[_Shard]) -> Header:
    """The header of a single run; recorded software that differs between shards is listed."""
    records = [shard.info.software for shard in shards]
    names = dict.fromkeys(name for record in records for name in record)
    software = {name: "; ".join(dict.fromkeys(str(each[name]) for each in records if name in each)) for name in names}
    first = shards[0]
    return replace(first.info.header(), rows=first.rows, recipe=_merged_recipe(first), software=software)


def _check_shard(shard: _Shard) -> None:
    failed = [check for check in check_file(shard.path) if not check.ok]
    if failed:
        raise UserError(
            f"{shard.path} is damaged ({failed[0].name}: {failed[0].detail}); get it again, or make it again with "
            f"--shard {shard.number}/{shard.of} --force."
        )
