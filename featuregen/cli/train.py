"""`featuregen train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featuregen.cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    ForceOption,
    ModelOption,
    PrecisionOption,
    SeedOption,
    SetOption,
    check_output,
    check_suffix,
    common_values,
    drop_none,
    load_settings,
    output_folder,
)
from featuregen.config.loader import load_config
from featuregen.config.recipes import NamedRecipe, RecipeName, source_recipe
from featuregen.config.schema import Config, EarlyStop, Norm
from featuregen.errors import UserError
from featuregen.runtime.console import show, show_paths
from featuregen.runtime.paths import check_utf8

if TYPE_CHECKING:
    from featuregen.models.io import TrainedModel

Loss = Literal["standard", "adversarial", "mixed"]


def train(
    robust: Annotated[
        bool | None, typer.Option("--robust/--standard", help="With or without adversarial training.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    on: Annotated[
        Path | None, typer.Option(help="A dataset (.h5) to train on alone, with the recipe of fresh models.")
    ] = None,
    model: ModelOption = None,
    loss: Annotated[
        Loss | None, typer.Option(help="On clean images, on adversarial ones, or on both; the last two imply --robust.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="With --loss mixed: the weight of the clean loss. Default: 0.5.")
    ] = None,
    norm: Annotated[Norm | None, typer.Option(help="Norm of the attack; implies --robust.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius of the attack, such as 0.5 or 8/255; implies --robust.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the attack; implies --robust.")] = None,
    step_size: Annotated[
        str | None, typer.Option(help="Length of a step; a single step of length eps is FGSM. Implies --robust.")
    ] = None,
    random_start: Annotated[
        bool | None,
        typer.Option("--random-start/--no-random-start", help="Random start of the attack; implies --robust."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    early_stop: Annotated[
        EarlyStop | None, typer.Option(help="Keep the epoch with the smallest validation error, of this kind.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a smaller error before training stops; 0 runs all epochs.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="The fraction of the training images used for validation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The .safetensors file to write.")] = None,
    named: Annotated[
        RecipeName | None,
        typer.Option("--recipe", help="Steps of the attack: the paper's, or fewer of equal quality; implies --robust."),
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Train a model, standard or adversarially, and save it with its settings and accuracies.

    featuregen train --out out/standard.safetensors

    featuregen train --eps 0.5 --recipe paper --out out/robust.safetensors

    featuregen train --norm linf --eps 8/255 --data mine.npz --model resnet9

    featuregen train --eps 0.5 --steps 1 --step-size 0.5 --random-start

    featuregen train --loss mixed --alpha 0.5 --early-stop adversarial

    featuregen train --on datasets_out/digits-robust.h5 --out out/dr.safetensors

    torchrun --nproc-per-node 2 -m featuregen train --robust
    """
    check_output(out, ".safetensors", "a saved model")
    if out:
        check_utf8(out, "a saved model")
    attack: dict[str, Any] = {"norm": norm, "eps": eps, "steps": steps, "step_size": step_size}
    attack = drop_none(attack | {"random_start": random_start})
    attack_options = [f"--{name.replace('_', '-')}" for name in [*attack, *(["recipe"] if named else [])]]
    which = _source_name(robust, loss, attack_options)
    if which == "standard" and early_stop == "adversarial" and not on:
        raise UserError("--early-stop adversarial needs an attack to train against; add --robust, or choose clean.")
    recipe = {
        "epochs": epochs, "lr": lr, "alpha": _alpha(loss, alpha), "patience": patience, "early_stop": early_stop,
        "held_out": held_out,
    }  # fmt: skip
    values = common_values(model, seed, device, precision)
    stopping = [*drop_none({"--patience": patience, "--held-out": held_out})]
    if on:
        if which == "robust":
            unused = [*attack_options, *(["--robust"] if robust else []), *([f"--loss {loss}"] if loss else [])]
            raise UserError(
                f"--on uses the recipe of fresh models; leave out {', '.join(unused)}, or set the attack in that "
                "recipe, such as --set fresh.robust.attack.eps=0.5."
            )
        _train_on_dataset(on, config, values | {"data.name": data}, recipe, set_, out, force, stopping)
        return
    if step_size is None and (steps or (attack.keys() & {"norm", "eps"} and not named)):
        attack["step_size"] = 0
    values |= {f"sources.robust.attack.{key}": value for key, value in attack.items()}
    values |= {f"sources.{which}.{key}": value for key, value in recipe.items()}
    named_recipe = NamedRecipe(named, kinds=(), training=True) if named else None
    _train_source(which, load_settings(config, data, set_, values, named_recipe), out, force, stopping)


def _source_name(robust: bool | None, loss: Loss | None, attack_options: list[str]) -> str:
    """The source model whose recipe is used: standard or robust."""
    if robust is not None and loss is not None and robust == (loss == "standard"):
        raise UserError(f"--{'robust' if robust else 'standard'} and --loss {loss} disagree; leave out one of them.")
    without_attack = "--standard" if robust is False else "--loss standard" if loss == "standard" else ""
    if attack_options and without_attack:
        raise UserError(
            f"{without_attack} trains without an attack; leave out {' and '.join(attack_options)}, or {without_attack}."
        )
    return "robust" if robust or attack_options or loss in ("adversarial", "mixed") else "standard"


def _alpha(loss: Loss | None, alpha: float | None) -> float | None:
    """The weight of the clean loss; None leaves the config's."""
    if loss != "mixed":
        if alpha is not None:
            raise UserError(f"--alpha {alpha:g} is for the mixed loss; add --loss mixed, or leave out --alpha.")
        return 0.0 if loss == "adversarial" else None
    if alpha == 0:
        raise UserError("--alpha 0 trains on adversarial images alone; choose --loss adversarial instead.")
    return 0.5 if alpha is None else alpha


def _check_stopping(early_stop: str, options: list[str]) -> None:
    if options and early_stop == "none":
        names = " and ".join(options)
        raise UserError(
            f"{names}: without early stopping there is no validation set; add --early-stop clean or adversarial, or "
            f"leave out {names}."
        )


def _train_source(which: str, settings: Config, out: Path | None, force: bool, stopping: list[str]) -> None:
    from featuregen.experiment.experiment import Experiment
    from featuregen.runtime.distributed import init_distributed

    recipe, _ = source_recipe(settings, which)
    _check_stopping(recipe.early_stop, stopping)
    with init_distributed(settings.runtime.device) as dist:
        with dist.main_first():
            experiment = Experiment(settings, output_folder(out), dist=dist)
        if out and not force:
            experiment.models.check_output_free(out, experiment.train_set, recipe, settings.seed)
        trained = experiment.source_model(which)
    if dist.is_main:
        title = "mixed" if which == "robust" and recipe.alpha else which
        _print_accuracy(f"{experiment.base.name}, {title}", trained, out, force)


def _train_on_dataset(
    path: Path,
    config: str | None,
    values: Mapping[str, Any],
    recipe: Mapping[str, Any],
    overrides: list[str] | None,
    out: Path | None,
    force: bool,
    stopping: list[str],
) -> None:
    check_suffix(path, ".h5", "a dataset", "--on")
    from featuregen.experiment.evaluate_files import experiment_on
    from featuregen.experiment.experiment import FRESH_SEED
    from featuregen.runtime.distributed import init_distributed
    from featuregen.storage.torch_dataset import FeatureDataset

    settings, folder = load_config(config) if config else None, output_folder(out)
    options: dict[str, Any] = {
        "values": drop_none(values), "overrides": overrides or (), "recipe": drop_none(recipe), "out": folder,
    }  # fmt: skip
    with init_distributed(values["runtime.device"]) as dist:
        with dist.main_first():
            data = FeatureDataset(path)
            experiment = experiment_on(data, settings, **options, dist=dist)
            images, training = experiment.training_images(data), experiment.fresh_recipe(data.info.kind)
        _check_stopping(training.early_stop, stopping)
        if out and not force:
            experiment.models.check_output_free(out, images, training, experiment.config.seed + FRESH_SEED)
        (trained,) = experiment.train_fresh(images, 1, training, images.name)
    if dist.is_main:
        _print_accuracy(images.name, trained, out, force)


def _print_accuracy(title: str, trained: TrainedModel, out: Path | None, force: bool) -> None:
    from featuregen.experiment.evaluate_files import run_record
    from featuregen.experiment.files import copy_model
    from featuregen.report.results import evaluation_table

    path = copy_model(trained.path, out, force) if out else trained.path
    show(evaluation_table([{"title": title, "runs": [run_record(trained)]}]))
    show_paths([path])
