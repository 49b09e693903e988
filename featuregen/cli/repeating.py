"""Commands that ask whether a dataset is the one it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import DataOption, DeviceOption, ForceOption, JsonOption, check_ending
from featuregen.errors import CheckFailed


def remake(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path | None, typer.Option(help="The HDF5 file to write. Default: FILE-remade.h5.")] = None,
    data: DataOption = None,
    source: Annotated[
        Path | None, typer.Option(help="The model it was made with. Default: found beside FILE, or trained again.")
    ] = None,
    device: DeviceOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Make a dataset again from nothing but its own record, and say whether it comes out the same.

    Exit code 0 if its content is the same byte for byte, 1 if not; then it says what differs, and by how much.

    featuregen remake datasets_out/digits-det.h5

    featuregen remake sent.h5 --data mine.npz --source standard.safetensors
    """
    check_ending(out, ".h5", "a dataset")
    from featuregen.experiment import remake as run
    from featuregen.report import diff_text

    made = run(file, out, data=data, source=source, device=device, force=force)
    if json_:
        print(json.dumps({"file": str(made.path), **made.comparison.to_dict()}, indent=2))
    else:
        print(diff_text(file, made.path, made.comparison.to_dict()))
    if not made.comparison.same:
        raise CheckFailed(f"{made.path} is not {file} over again")


def diff(
    first: Annotated[Path, typer.Argument(help="A dataset.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    json_: JsonOption = False,
) -> None:
    """Compare two datasets: settings, rows, labels, pixels.

    Exit code 0 if their content is the same, 1 if not.

    featuregen diff datasets_out/digits-det.h5 sent/digits-det.h5
    """
    from featuregen.report import diff_text
    from featuregen.storage.diff import diff

    found = diff(first, second)
    print(json.dumps(found.to_dict(), indent=2) if json_ else diff_text(first, second, found.to_dict()))
    if not found.same:
        raise CheckFailed(f"{first} and {second} differ")
