"""Commands that bring in what others made, and hand out what was made here in the formats of others."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DtypeName,
    ForceOption,
    KindName,
    OutOption,
    SetOption,
    check_ending,
    settings_of,
)
from featuregen.cli.reading import describe
from featuregen.errors import UserError


class FormatName(StrEnum):
    madry = "madry"
    npz = "npz"
    imagefolder = "imagefolder"
    parquet = "parquet"
    robustness = "robustness"


def import_released(
    folder: Annotated[Path, typer.Argument(help="The folder that holds CIFAR_ims and CIFAR_lab.")],
    kind: Annotated[KindName, typer.Option(help="Which set it is; the files do not say.")],
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The images it was made from: a known set, or a Keras-style .npz. Default: the config's, or cifar10."
        ),
    ] = None,
    out: OutOption = None,
    dtype: Annotated[DtypeName, typer.Option(help="How pixels are stored; float32 keeps every bit.")] = (
        DtypeName.float32
    ),
    within: Annotated[
        float, typer.Option(help="rand and det: how far in L2 an image may lie from the one it was made from.")
    ] = 0.57,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Take over tensors in the layout that the paper's authors released, as a dataset of featuregen's.

    featuregen import d_robust_CIFAR --kind robust

    featuregen import ddet_CIFAR --kind det --dtype uint8 --out det.h5
    """
    check_ending(out, ".h5", "a dataset")
    from featuregen.data import load_images
    from featuregen.interop import released

    # Before the base set, which may have to be downloaded.
    released.check_folder(folder)
    if config is None:
        data = data or "cifar10"
        config = released.fitting_config(data)
    settings = settings_of(config, data, set_, {})
    base = load_images(settings.data)
    path = out or OUT / f"{base.name}-{kind.value}-imported.h5"
    found = released.import_released(
        folder, kind.value, base, path, dtype=dtype.value, within=within, config=settings, force=force
    )
    print(describe(found))
    print(path)


def export_file(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5), or a saved model for robustness.")],
    format_: Annotated[
        FormatName,
        typer.Option(
            "--format",
            help="For a dataset madry (the authors' tensors), npz, imagefolder, parquet; for a model robustness.",
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
    print(_EXPORTERS[format_](file, format_.value, out, force))


def share(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5).")],
    out: Annotated[Path | None, typer.Option(help="The folder to write. Default: beside FILE, as NAME-share.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The source model. Default: looked for by its digest in models/ beside FILE.")
    ] = None,
    without_source: Annotated[
        bool, typer.Option("--without-source", help="Leave the source model out, and have the card say so.")
    ] = False,
    data: DataOption = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results for the card, from `reproduce` or `evaluate --json`. Default: results.json beside FILE."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="The base set's licence, where featuregen does not know it; such as 'CC BY 4.0'.")
    ] = None,
    citation: Annotated[str | None, typer.Option(help="What to cite for the base set, likewise.")] = None,
    force: ForceOption = False,
) -> None:
    """Write a folder ready to send, or to upload to the Hugging Face hub.

    The dataset is verified first; exit code 1 if a check fails. Beside it lie its source model, a dataset card, a
    preview, Croissant metadata and checksums.

        featuregen share datasets_out/digits-det.h5

        featuregen share det.h5 --source standard.safetensors --out to-send

        featuregen share det.h5 --results evaluation.json

        featuregen share mine.h5 --data mine.npz --licence "CC BY 4.0"
    """
    from featuregen.experiment import share_file

    path = share_file(
        file, out, data=data, source=source, with_source=not without_source, results=results, licence=licence,
        citation=citation, force=force,
    )  # fmt: skip
    print(path)


def _export_dataset(file: Path, name: str, out: Path | None, force: bool) -> Path:
    from featuregen.interop import FORMATS, export_dataset

    if FORMATS[name].ending:
        check_ending(out, FORMATS[name].ending, f"an export to {name}")
    return export_dataset(file, name, out, force)


def _export_model(file: Path, name: str, out: Path | None, force: bool) -> Path:
    from featuregen.interop import is_checkpoint, save_checkpoint
    from featuregen.models import load_model

    target = out or file.with_suffix(".pt")
    if not is_checkpoint(target) and not target.exists():
        raise UserError(f"--out {target} should end in .pt, as a checkpoint of robustness does.")
    if target.exists() and not force:
        raise UserError(f"{target} is there already; choose another --out, or replace it with --force.")
    model = load_model(file)
    save_checkpoint(model, target, model.record)
    return target


_EXPORTERS: dict[FormatName, Callable[[Path, str, Path | None, bool], Path]] = {
    FormatName.madry: _export_dataset,
    FormatName.npz: _export_dataset,
    FormatName.imagefolder: _export_dataset,
    FormatName.parquet: _export_dataset,
    FormatName.robustness: _export_model,
}
