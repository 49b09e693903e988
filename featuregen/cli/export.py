"""`featuregen export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from featuregen.cli.options import ForceOption, check_suffix
from featuregen.errors import UserError
from featuregen.runtime.console import show_paths
from featuregen.runtime.paths import check_file, check_output_file


def export_file(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5), or a saved model for robustness.")],
    format_: Annotated[
        Literal["madry", "npz", "imagefolder", "parquet", "robustness"],
        typer.Option(
            "--format",
            help="Of a dataset: madry (the authors' tensors), npz, imagefolder, parquet; of a model: robustness.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The file or folder to write. Default: beside FILE.")] = None,
    force: ForceOption = False,
) -> None:
    """Write a dataset, or a model, in the format of another tool.

    featuregen export datasets_out/digits-robust.h5 --format madry

    featuregen export det.h5 --format imagefolder --out det-pictures

    featuregen export det.h5 --format parquet

    featuregen export robust.safetensors --format robustness --out robust.pt
    """
    if format_ == "robustness":
        show_paths([_export_model(file, out, force)])
        return
    from featuregen.interop.export import FORMATS, export_dataset

    if FORMATS[format_].ending:
        check_suffix(out, FORMATS[format_].ending, f"an export to {format_}")
    show_paths([export_dataset(file, format_, out, force)])


def _export_model(file: Path, out: Path | None, force: bool) -> Path:
    from featuregen.interop.robustness import save_checkpoint
    from featuregen.models.io import load_model
    from featuregen.runtime.torch_files import is_checkpoint

    check_file(file, "model file")
    target = out or file.with_suffix(".pt")
    check_output_file(target)
    if not is_checkpoint(target) and not target.exists():
        raise UserError(f"--out {target} should end in .pt, as a checkpoint of robustness does.")
    if target.exists() and not force:
        raise UserError(f"{target} exists already; choose another --out, or replace it with --force.")
    model = load_model(file)
    save_checkpoint(model, target, model.record)
    return target
