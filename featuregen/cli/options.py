"""The options that commands share, and the settings they stand for."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featuregen.cli.errors import process_number
from featuregen.errors import UserError

OUT = Path("datasets_out")


class KindName(StrEnum):
    robust = "robust"
    nonrobust = "nonrobust"
    robust_noise = "robust-noise"
    nonrobust_noise = "nonrobust-noise"
    rand = "rand"
    det = "det"


class StartName(StrEnum):
    image = "image"
    noise = "noise"


class NormName(StrEnum):
    l2 = "l2"
    linf = "linf"


class DtypeName(StrEnum):
    uint8 = "uint8"
    float16 = "float16"
    float32 = "float32"


class PrecisionName(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class RecipeName(StrEnum):
    paper = "paper"
    fast = "fast"


ConfigOption = Annotated[
    str | None,
    typer.Option(
        help="A shipped config's name or a YAML file. Default: what a given file records, the image set's, or digits."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar10, mnist, fashion-mnist, or a path: a Keras-style .npz or .h5, a folder of pictures."
    ),
]
ModelOption = Annotated[str | None, typer.Option(help="Architecture; `featuregen models` lists them.")]
SourceOption = Annotated[Path | None, typer.Option(help="A saved model to use instead of training one.")]
OutOption = Annotated[Path | None, typer.Option(help="The HDF5 file to write.")]
RecipeOption = Annotated[
    RecipeName | None,
    typer.Option("--recipe", help="The paper's steps, or fewer that get as far. Default: the config's."),
]
StepsOption = Annotated[int | None, typer.Option(help="Gradient steps per image.")]
StepSizeOption = Annotated[str | None, typer.Option(help="Length of a step, such as 0.1 or 8/255.")]
EpsOption = Annotated[str | None, typer.Option(help="Radius of the ball around the base image, such as 0.5 or 8/255.")]
NormOption = Annotated[NormName | None, typer.Option(help="The ball's norm.")]
StartOption = Annotated[StartName | None, typer.Option(help="Start from another training image, or from noise.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of models, targets and starts.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")]
PrecisionOption = Annotated[PrecisionName | None, typer.Option(help="Arithmetic of the network.")]
RowsOption = Annotated[int | None, typer.Option(help="A class-balanced sample of this many rows; 0 means all.")]
DtypeOption = Annotated[DtypeName | None, typer.Option(help="How pixels are stored.")]
ShardOption = Annotated[
    str | None, typer.Option(help="Make part i of n, such as 2/7; `featuregen merge` puts the parts together.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output made with other settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def common(model: str | None, seed: int | None, device: str | None, precision: PrecisionName | None) -> dict[str, Any]:
    values = {"seed": seed, "runtime.device": device, "runtime.precision": precision and precision.value}
    # Another architecture brings its own width.
    return values | ({"model.architecture": model, "model.width": 0} if model else {})


def settings_of(
    config: str | None,
    data: str | None,
    overrides: list[str] | None,
    values: dict[str, Any],
    named: RecipeName | None = None,
    kinds: list[str] | None = None,
    trains: bool = False,
) -> Any:
    """The config, then the named recipe of these kinds (or of all it has), then other options, then every --set."""
    from featuregen.config import attack_values, config_names, load_config, recipe_values

    name = config or (data if data in config_names() else "digits")
    if config is None and data is not None and data != name:
        stem = Path(data).stem.replace("_", "-")
        fitting = [each for each in config_names() if each == stem or each.startswith(f"{stem}-")]
        hint = f"give --config, such as {' or '.join(fitting)}" if fitting else "give --config"
        if process_number() == 0:
            print(f"note: no config is named '{data}', so the recipes are those of '{name}'; {hint}", file=sys.stderr)
        # Other images want other nets, and what suits the smallest would have a large one wait for a single core.
        values = {
            "runtime.threads": 0,
            "runtime.jobs": 1,
            "runtime.precision": "auto",
            "runtime.convolution": "auto",
        } | given(values)
    values = given({"data.name": data} | values)
    if named:
        given_so_far = load_config(name, overrides or (), values)
        for kind in given_so_far.synthesis if kinds is None else kinds:
            values = recipe_values(named.value, kind) | values
        if trains and (attack := given_so_far.sources.robust.attack):
            values = attack_values(named.value, attack.eps) | values
    return load_config(name, overrides or (), values)


def given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def check_ending(path: Path | None, ending: str, what: str, option: str = "--out") -> None:
    """Commands know a file by its ending, and what is drawn beside a dataset must not take its name."""
    if path and path.suffix != ending:
        raise UserError(f"{option} {path} should end in {ending}, as {what} does.")
