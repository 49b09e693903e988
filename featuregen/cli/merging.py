"""The command that puts shards together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import ForceOption, check_ending
from featuregen.cli.reading import describe
from featuregen.errors import UserError


def merge(
    shards: Annotated[list[Path], typer.Argument(help="All shards of one set, as --shard wrote them.")],
    out: Annotated[
        Path | None, typer.Option(help="The HDF5 file to write. Default: the shards' own name without the number.")
    ] = None,
    force: ForceOption = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the shards once the merged file is verified.")
    ] = False,
) -> None:
    """Put the shards of a set together: the file is the one that a single run would have made.

    Shards are checked before, the file after; interrupted and started again, it goes on where it stopped.

        featuregen merge datasets_out/digits-det.shard-*.h5

        featuregen merge a.h5 b.h5 --out whole.h5 --remove
    """
    check_ending(out, ".h5", "a dataset")
    target = out or _common_name(shards)
    from featuregen.storage.merge import merge

    print(describe(merge(shards, target, force, remove)))
    print(target)


def _common_name(shards: list[Path]) -> Path:
    stems = {found[1] for path in shards if (found := re.fullmatch(r"(.+)\.shard-\d+-of-\d+\.h5", path.name))}
    if len(stems) != 1 or not all(".shard-" in path.name for path in shards):
        raise UserError("The shards' names do not say what they are parts of; name the file to write with --out.")
    return shards[0].with_name(f"{stems.pop()}.h5")
