"""The options that several commands share, and the settings they result in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featuregen.config.kinds import KINDS
from featuregen.config.loader import config_names, did_you_mean, load_config
from featuregen.config.plugins import load_plugin
from featuregen.config.recipes import NamedRecipe, RecipeName
from featuregen.config.schema import Config, Dtype, Norm, Precision
from featuregen.errors import UserError
from featuregen.runtime.console import log
from featuregen.runtime.paths import check_output_file, check_output_folder

OUT = Path("datasets_out")
Start = Literal["image", "noise"]

ConfigOption = Annotated[
    str | None,
    typer.Option(
        help="A shipped config's name or a YAML file. Default: the config that a given file records, else that of the "
        "base set, else digits."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="The base set: digits, cifar10, mnist, fashion-mnist, or the path of a Keras-style .npz or .h5, or of an "
        "image folder."
    ),
]
ModelOption = Annotated[str | None, typer.Option(help="Architecture; `featuregen models` lists them.")]
SourceOption = Annotated[Path | None, typer.Option(help="A saved model to use as the source instead of training one.")]
OutOption = Annotated[Path | None, typer.Option(help="The HDF5 file to write.")]
RecipeOption = Annotated[
    RecipeName | None,
    typer.Option("--recipe", help="The paper's recipe, or one of equal quality in fewer steps. Default: the config's."),
]
StepsOption = Annotated[int | None, typer.Option(help="Gradient steps per image.")]
StepSizeOption = Annotated[str | None, typer.Option(help="Length of a step, such as 0.1 or 8/255.")]
EpsOption = Annotated[str | None, typer.Option(help="Radius of the ball around the base image, such as 0.5 or 8/255.")]
NormOption = Annotated[Norm | None, typer.Option(help="Norm of the ball.")]
StartOption = Annotated[Start | None, typer.Option(help="Start from another training image, or from noise.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of models, targets and starts.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")]
PrecisionOption = Annotated[Precision | None, typer.Option(help="Arithmetic of the network.")]
RowsOption = Annotated[int | None, typer.Option(help="A class-balanced sample of this many rows; 0 means all.")]
DtypeOption = Annotated[Dtype | None, typer.Option(help="How pixels are stored.")]
ShardOption = Annotated[
    str | None, typer.Option(help="Make shard i of n, such as 2/7; `featuregen merge` joins the shards.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output made with other settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def load_plugins(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file that registers kinds, attacks or architectures; may be repeated."),
    ] = None,
) -> None:
    for path in plugin or ():
        load_plugin(path)


def common_values(model: str | None, seed: int | None, device: str | None, precision: str | None) -> dict[str, Any]:
    """The settings that the options of most commands stand for, by key."""
    values = {"seed": seed, "runtime.device": device, "runtime.precision": precision}
    # Another architecture has another default width.
    return values | ({"model.architecture": model, "model.width": 0} if model else {})


def load_settings(
    config: str | None,
    data: str | None,
    overrides: list[str] | None,
    values: Mapping[str, Any],
    recipe: NamedRecipe | None = None,
) -> Config:
    """The config, then the named recipe, then the options' values, then every --set; later ones win."""
    name = config or (data if data in config_names() else "digits")
    defaults: dict[str, Any] = {}
    if config is None and data is not None and data != name:
        stem = Path(data).stem.replace("_", "-")
        matches = [each for each in config_names() if each == stem or each.startswith(f"{stem}-")]
        hint = f"give --config, such as {' or '.join(matches)}" if matches else "give --config"
        log(f"note: no config is named '{data}', so the recipes are those of '{name}'; {hint}")
        # The runtime settings of digits suit its tiny network alone.
        defaults = {"runtime.threads": 0, "runtime.jobs": 1, "runtime.precision": "auto", "runtime.convolution": "auto"}
    return load_config(name, overrides or (), drop_none({"data.name": data} | defaults | drop_none(values)), recipe)


def drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in values.items() if value is not None}


def check_kind(kind: str) -> None:
    """Refuse a kind that is neither built in nor registered by a plugin."""
    if kind not in KINDS:
        raise UserError(f"'{kind}' is no kind of dataset; {did_you_mean(kind, KINDS)}")


def check_suffix(path: Path | None, suffix: str, what: str, option: str = "--out") -> None:
    """Refuse a path of another kind: commands recognise files by suffix, and pictures are written beside datasets."""
    if path and path.suffix != suffix:
        raise UserError(f"{option} {path} should end in {suffix}, as {what} does.")


def check_output(path: Path | None, suffix: str, what: str) -> None:
    """Refuse before any work a file to write that has another suffix, or where no file can be written."""
    check_suffix(path, suffix, what)
    if path:
        check_output_file(path)


def output_folder(out: Path | None) -> Path:
    """The folder of a file to write. The default one is no link: it may be part of a folder that somebody sent."""
    if out is None:
        check_output_folder(OUT)
    return out.parent if out else OUT
