"""`featuregen verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import DataOption, JsonOption
from featuregen.errors import CheckFailed, join_lines
from featuregen.runtime.console import show, show_json


def verify(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    data: DataOption = None,
    source: Annotated[Path | None, typer.Option(help="The source model, to recompute the success rate.")] = None,
    json_: JsonOption = False,
) -> None:
    """Check a dataset: checksums, shapes, value ranges, perturbation sizes, the kind's rule for labels, success rate.

    Where the base set is not available, the checks that need it are skipped, and a note says so. Exit code 1 if a check
    fails.

        featuregen verify datasets_out/digits-det.h5

        featuregen verify sent.h5 --data mine.npz --source standard.safetensors
    """
    from featuregen.experiment.verify import verify as run

    checks = run(file, data, source)
    if json_:
        show_json([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks])
    else:
        show(join_lines(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}" for check in checks))
    if failed := [check.name for check in checks if not check.ok]:
        raise CheckFailed(f"{file}: {', '.join(failed)}")
