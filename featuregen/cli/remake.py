"""`featuregen remake`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import DataOption, DeviceOption, ForceOption, JsonOption, check_output
from featuregen.errors import CheckFailed
from featuregen.runtime.console import show, show_json


def remake(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path | None, typer.Option(help="The HDF5 file to write. Default: FILE-remade.h5.")] = None,
    data: DataOption = None,
    source: Annotated[
        Path | None, typer.Option(help="The source model. Default: found beside FILE by its digest, or trained again.")
    ] = None,
    device: DeviceOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Make a dataset again from its record alone, and compare the two.

    Exit code 0 if the contents are equal byte for byte; otherwise 1, and the differences are printed.

    featuregen remake datasets_out/digits-det.h5

    featuregen remake sent.h5 --data mine.npz --source standard.safetensors
    """
    check_output(out, ".h5", "a dataset")
    from featuregen.experiment.remake import remake as run
    from featuregen.report.diff import diff_text

    remade = run(file, out, data=data, source=source, device=device, force=force)
    comparison = remade.comparison.to_dict()
    if json_:
        show_json({"file": str(remade.path), **comparison})
    else:
        show(diff_text(file, remade.path, comparison))
    if not remade.comparison.same:
        raise CheckFailed(f"the contents of {remade.path} and {file} differ")
