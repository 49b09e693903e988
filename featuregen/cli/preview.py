"""`featuregen preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import DataOption, check_output
from featuregen.runtime.console import show_paths


def preview(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write. Default: beside the dataset.")] = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a picture that featuregen has not drawn.")] = False,
) -> None:
    """Draw base image, start image and result of ten rows.

    featuregen preview datasets_out/digits-det.h5 --out det.png
    """
    check_output(out, ".png", "a picture")
    from featuregen.experiment.files import experiment_of
    from featuregen.experiment.outputs import draw_preview
    from featuregen.storage.torch_dataset import FeatureDataset

    experiment, picture = experiment_of(file, data), out or file.with_suffix(".png")
    show_paths([draw_preview(experiment, FeatureDataset(file), picture, force)])
