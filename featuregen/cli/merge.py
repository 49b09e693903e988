"""`featuregen merge`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.info import describe
from featuregen.cli.options import ForceOption, check_output
from featuregen.errors import UserError
from featuregen.runtime.console import show, show_paths


def merge(
    shards: Annotated[list[Path], typer.Argument(help="All shards of one dataset, as --shard wrote them.")],
    out: Annotated[
        Path | None, typer.Option(help="The HDF5 file to write. Default: the shards' name without the number.")
    ] = None,
    force: ForceOption = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the shards once the merged file is verified.")
    ] = False,
) -> None:
    """Merge the shards of a dataset into the file that a single run would have made.

    The shards are checked before merging and the merged file after it. An interrupted merge resumes when you rerun the
    command.

        featuregen merge datasets_out/digits-det.shard-*.h5

        featuregen merge a.h5 b.h5 --out whole.h5 --remove
    """
    check_output(out, ".h5", "a dataset")
    target = out or _common_name(shards)
    from featuregen.storage.merge import merge

    show(describe(merge(shards, target, force, remove)))
    show_paths([target])


def _common_name(shards: list[Path]) -> Path:
    """The merged file's path where all shards are named alike."""
    matches = [re.fullmatch(r"(.+)\.shard-\d+-of-\d+\.h5", path.name) for path in shards]
    stems = {match and match[1] for match in matches}
    if len(stems) != 1 or None in stems:
        raise UserError("The shards' names do not say which dataset they belong to; name the file to write with --out.")
    return shards[0].with_name(f"{stems.pop()}.h5")
