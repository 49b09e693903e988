"""`featuregen evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    SeedOption,
    SetOption,
    common_values,
    drop_none,
)
from featuregen.config.loader import load_config, unique_assignments
from featuregen.errors import UserError
from featuregen.runtime.console import show, show_json
from featuregen.runtime.paths import check_file, check_output_folder


def evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Datasets (.h5) and saved models (.safetensors).")],
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    seeds: Annotated[int | None, typer.Option(help="Fresh models per dataset.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the dataset.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Train with each of several values: lr, or lr=0.01,0.1, or any training setting; may be repeated."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder in which the fresh models are saved.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    set_: SetOption = None,
) -> None:
    """Train fresh models on a dataset alone and evaluate them on the test set; or evaluate a saved model.

    The last column is the accuracy on the training set, under the attack of the training.

    featuregen evaluate datasets_out/digits-robust.h5

    featuregen evaluate out/det.h5 out/rand.h5 --seeds 5 --json

    featuregen evaluate out/rand.h5 --sweep lr --sweep optimizer=sgd,adamw

    featuregen evaluate out/robust.safetensors --set evaluation.l2=[0.25,0.5]

    featuregen evaluate plain.safetensors mixed.safetensors dr.safetensors

    featuregen evaluate cifar_l2_0_5.pt --config cifar10-paper
    """
    values = drop_none(common_values(model, seed, device, precision) | {"evaluation.seeds": seeds, "data.name": data})
    recipe = drop_none({"epochs": epochs, "lr": lr})
    from featuregen.experiment.evaluate_files import evaluate_file, sweep_file
    from featuregen.interop.load import is_model_file

    for_datasets = drop_none({
        "--model": model, "--seeds": seeds, "--epochs": epochs, "--lr": lr, "--sweep": sweep, "--precision": precision,
    })  # fmt: skip
    if for_datasets and all(is_model_file(path) for path in paths):
        raise UserError(f"{paths[0]} is already trained; {', '.join(for_datasets)} apply to datasets.")
    for path in paths:
        # Before the first of them is trained on.
        check_file(path)
    check_output_folder(out)
    settings = load_config(config) if config else None
    grid = _parse_sweep(sweep or [], recipe)
    rows = []
    for path in paths:
        options: dict[str, Any] = {"values": values, "overrides": set_ or (), "out": out}
        if is_model_file(path):
            rows.append(evaluate_file(path, settings, **options))
        else:
            rows += sweep_file(path, grid, settings, recipe=recipe, **options)
    if json_:
        show_json({"format": "featuregen-evaluation", "version": 1, "models": rows})
        return
    from featuregen.report.results import evaluation_table

    show(evaluation_table(rows))


def _parse_sweep(sweep: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values to try of each setting, from texts such as `lr` and `optimizer=sgd,adamw`."""
    texts = [text if "=" in text else f"{text}=" for text in sweep]
    grid: dict[str, list[str]] = {}
    for name, words in unique_assignments(texts, "--sweep", "key", "optimizer=sgd,adamw").items():
        if name in recipe:
            raise UserError(
                f"--sweep {name} tries several and --{name} {recipe[name]} sets one; leave out one of them."
            )
        grid[name] = [word.strip() for word in words.split(",") if word.strip()]
        # Without values, learning rates around the recipe's are tried.
        if not grid[name] and name != "lr":
            raise UserError(f"--sweep {name} names no values; give them as {name}=a,b.")
    return grid
