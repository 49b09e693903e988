"""`featuregen import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.info import describe
from featuregen.cli.options import (
    ConfigOption,
    ForceOption,
    OutOption,
    SetOption,
    check_kind,
    check_output,
    load_settings,
    output_folder,
)
from featuregen.config.schema import Dtype
from featuregen.runtime.console import show, show_paths


def import_released(
    folder: Annotated[Path, typer.Argument(help="The folder that holds CIFAR_ims and CIFAR_lab.")],
    kind: Annotated[
        str, typer.Option(help="The kind of the dataset, such as robust or det; the files do not record it.")
    ],
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The base set it was made from: a built-in set or a Keras-style .npz. Default: the config's, or "
            "cifar10."
        ),
    ] = None,
    out: OutOption = None,
    dtype: Annotated[Dtype, typer.Option(help="How pixels are stored; float32 keeps every bit.")] = "float32",
    within: Annotated[
        float, typer.Option(help="For rand and det: the largest L2 distance between an image and its base image.")
    ] = 0.57,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Import tensors in the format that the paper's authors released.

    featuregen import d_robust_CIFAR --kind robust

    featuregen import ddet_CIFAR --kind det --dtype uint8 --out det.h5
    """
    check_kind(kind)
    check_output(out, ".h5", "a dataset")
    from featuregen.data.sources import load_images
    from featuregen.interop import released

    # Before the base set, which may have to be downloaded.
    released.check_folder(folder)
    if config is None:
        data = data or "cifar10"
        config = released.fitting_config(data)
    settings = load_settings(config, data, set_, {})
    base = load_images(settings.data)
    path = out or output_folder(out) / f"{base.name}-{kind}-imported.h5"
    info = released.import_released(folder, kind, base, path, dtype=dtype, within=within, config=settings, force=force)
    show(describe(info))
    show_paths([path])
