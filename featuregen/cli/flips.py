"""`featuregen flips`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    JsonOption,
    RowsOption,
    SeedOption,
    common_values,
    drop_none,
)
from featuregen.config.loader import load_config, unique_assignments
from featuregen.config.schema import Norm
from featuregen.errors import UserError
from featuregen.runtime.console import log, show, show_json, show_paths
from featuregen.runtime.paths import check_output_folder


def flips(
    models: Annotated[list[Path], typer.Argument(help="Saved models, or checkpoints of robustness.")],
    attacks: Annotated[str, typer.Option(help="Names of attacks, separated by commas.")] = "fgsm,pgd",
    eps: Annotated[
        str, typer.Option(help="Radii for the attacks that take one, separated by commas, such as 0.1 or 8/255.")
    ] = "",
    norm: Annotated[Norm, typer.Option(help="The norm, for the attacks that take one.")] = "linf",
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of these names that featuregen has not written.")
    ] = False,
) -> None:
    """Find which classes predicted labels flip to under attack.

    Writes matrices and tests whether flips are symmetric, which classes attract them, and whether attacks and models
    agree. Attacks the test images that a model classifies correctly, by default in a class-balanced sample of at most
    1,000.

        featuregen flips standard.safetensors --attacks fgsm,pgd --eps 0.05,0.1

        featuregen flips standard.safetensors robust.safetensors --eps 8/255

        featuregen flips m.safetensors --attacks pgd,spatial --norm l2 --eps 0.5
    """
    names, radii = _split_list(attacks), _split_list(eps)
    if not names:
        raise UserError("--attacks names no attack; give at least one, such as fgsm,pgd.")
    if duplicate := next((path for number, path in enumerate(models) if path in models[:number]), None):
        raise UserError(f"{duplicate} is given twice; name each model once.")
    attack_settings: dict[str, dict[str, str]] = {}
    for key, value in unique_assignments(set_ or [], "--set", "attack.key", "pgd.steps=40").items():
        attack, _, setting = key.rpartition(".")
        attack_settings.setdefault(attack, {})[setting] = value
    from featuregen.evaluation.attack_run import inputs_from_split
    from featuregen.evaluation.label_flips import expand_grid, label_flips_to_folder, titles_of_files
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.files import config_for
    from featuregen.report.label_flips import flip_maps, flips_table
    from featuregen.runtime.marks import check_replaceable

    for folder in (OUT, out) if out.parent == OUT else (out,):
        check_output_folder(folder)
    maps = {title: out / f"flips-{title}.png" for title in titles_of_files(models)}
    files = [out / "flips.json", out / "flips.csv", *maps.values()]
    check_replaceable(*files, force=force)
    runs = expand_grid(names, radii, norm, attack_settings)
    values = drop_none(common_values(None, seed, device, None) | {"data.name": data})
    settings = config_for(models[0], load_config(config) if config else None, values=values)
    experiment = Experiment(settings, out)
    victims = [experiment.load_model(path) for path in models]
    for run in runs:
        if run.eps is None:
            log(f"note: {run.attack} takes no eps and is run once")
    inputs = inputs_from_split(experiment.base, "test", rows, settings.seed, experiment.device)
    results = label_flips_to_folder(
        out, victims, inputs, runs, base=experiment.base.description(), seed=settings.seed,
        batch_size=settings.evaluation.batch_size, compute=experiment.compute,
    )  # fmt: skip
    check_replaceable(*maps.values(), force=force)
    for title, picture in maps.items():
        runs_of_model = [run for run in results["runs"] if run["model"] == title]
        flip_maps(picture, title, runs_of_model, experiment.base.classes)
    if json_:
        show_json(results)
    else:
        show(flips_table(results))
    show_paths(files, beside_results=json_)


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
