"""`featuregen diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import JsonOption
from featuregen.errors import CheckFailed


def diff(
    first: Annotated[Path, typer.Argument(help="A dataset.")],
    second: Annotated[Path, typer.Argument(help="Another dataset.")],
    json_: JsonOption = False,
) -> None:
    """Compare two datasets: settings, rows, labels, pixels.

    Exit code 0 if their contents are equal, 1 if not.

    featuregen diff datasets_out/digits-det.h5 sent/digits-det.h5
    """
    from featuregen.report.diff import diff_text
    from featuregen.storage.diff import diff as compare

    comparison = compare(first, second)
    print(json.dumps(comparison.to_dict(), indent=2) if json_ else diff_text(first, second, comparison.to_dict()))
    if not comparison.same:
        raise CheckFailed(f"the contents of {first} and {second} differ")
