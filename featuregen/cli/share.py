"""`featuregen share`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import DataOption, ForceOption
from featuregen.runtime.console import show_paths


def share(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5).")],
    out: Annotated[Path | None, typer.Option(help="The folder to write. Default: beside FILE, as NAME-share.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The source model. Default: found by its digest in models/ beside FILE.")
    ] = None,
    without_source: Annotated[
        bool, typer.Option("--without-source", help="Leave out the source model, and say so in the card.")
    ] = False,
    data: DataOption = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results for the card, from `reproduce` or `evaluate --json`. Default: results.json beside FILE."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="The base set's licence, such as 'CC BY 4.0', if it is not a built-in set.")
    ] = None,
    citation: Annotated[
        str | None, typer.Option(help="What to cite for the base set, if it is not a built-in set.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a folder ready to send, or to upload to the Hugging Face hub.

    The dataset is verified first; exit code 1 if a check fails. The folder also contains the source model, a dataset
    card, a preview, Croissant metadata and checksums.

        featuregen share datasets_out/digits-det.h5

        featuregen share det.h5 --source standard.safetensors --out to-send

        featuregen share det.h5 --results evaluation.json

        featuregen share mine.h5 --data mine.npz --licence "CC BY 4.0"
    """
    from featuregen.experiment.share import share_file
    from featuregen.runtime.paths import check_output_folder

    if out:
        check_output_folder(out)
    path = share_file(
        file, out, data=data, source=source, with_source=not without_source, results=results, licence=licence,
        citation=citation, force=force,
    )  # fmt: skip
    show_paths([path])
