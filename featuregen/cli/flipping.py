"""The command that asks where labels flip to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    JsonOption,
    NormName,
    RowsOption,
    SeedOption,
    common,
    given,
)
from featuregen.errors import UserError


def flips(
    models: Annotated[list[Path], typer.Argument(help="Saved models, or checkpoints of robustness.")],
    attacks: Annotated[str, typer.Option(help="Their names, separated by commas.")] = "fgsm,pgd",
    eps: Annotated[
        str, typer.Option(help="Radii for the attacks that take one, separated by commas, such as 0.1 or 8/255.")
    ] = "",
    norm: Annotated[NormName, typer.Option(help="The norm, for the attacks that take one.")] = NormName.linf,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of an attack, as pgd.steps=40; may be repeated.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    rows: RowsOption = None,
    out: Annotated[Path, typer.Option(help="The folder for flips.json, flips.csv and the pictures.")] = OUT / "flips",
    seed: SeedOption = None,
    device: DeviceOption = None,
    json_: JsonOption = False,
) -> None:
    """Which classes labels flip to: matrices, whether they are symmetric, what attracts, and who agrees with whom.

    Attacks the test images that a model gets right, by default a class-balanced sample of at most 1,000 of them.

        featuregen flips standard.safetensors --attacks fgsm,pgd --eps 0.05,0.1

        featuregen flips standard.safetensors robust.safetensors --eps 8/255

        featuregen flips m.safetensors --attacks pgd,spatial --norm l2 --eps 0.5
    """
    names, radii = _listed(attacks), _listed(eps)
    if not names:
        raise UserError("--attacks names no attack; give at least one, such as fgsm,pgd.")
    if twice := next((path for number, path in enumerate(models) if path in models[:number]), None):
        raise UserError(f"{twice} is given twice; name each model once.")
    from featuregen.config import load_config, with_overrides
    from featuregen.evaluation import expand_grid
    from featuregen.experiment import Experiment, flip_models, recorded_config, write_flips
    from featuregen.report import flips_table

    runs = expand_grid(names, radii, norm.value, _settings(set_ or []))
    values = given(common(None, seed, device, None) | {"data.name": data})
    experiment = Experiment(
        with_overrides(load_config(config) if config else recorded_config(models[0]), (), values), out
    )
    inputs = [experiment.load_model(path) for path in models]
    for run in runs:
        if run.eps is None:
            print(f"note: {run.attack} takes no eps and is run once", file=sys.stderr)
    results = flip_models(experiment, inputs, runs, rows)
    written = write_flips(results, out)
    print(json.dumps(results, indent=2) if json_ else flips_table(results))
    print(*written, sep="\n", file=sys.stderr if json_ else sys.stdout)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _settings(texts: list[str]) -> dict[str, dict[str, str]]:
    """From texts such as `pgd.steps=40`, by attack; what they mean is for the attack to say."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        attack, dot, key = name.rpartition(".")
        if not (attack and dot and key and equals and value):
            raise UserError(f"--set {text} is no setting of an attack; write it as attack.key=value, as pgd.steps=40.")
        if key in found.setdefault(attack, {}):
            raise UserError(f"--set {name} is given twice; keep one of {found[attack][key]} and {value}.")
        found[attack][key] = value
    return found
