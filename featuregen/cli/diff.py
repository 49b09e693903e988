"""`featuregen diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import JsonOption
from featuregen.errors import CheckFailed
from featuregen.runtime.console import show, show_json


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
    if json_:
        show_json(comparison.to_dict())
    else:
        show(diff_text(first, second, comparison.to_dict()))
    if not comparison.same:
        raise CheckFailed(f"the contents of {first} and {second} differ")
