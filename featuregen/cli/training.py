"""The command that trains one model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    ForceOption,
    ModelOption,
    NormName,
    PrecisionOption,
    RecipeName,
    SeedOption,
    SetOption,
    check_ending,
    common,
    given,
    settings_of,
)
from featuregen.errors import UserError


class LossName(StrEnum):
    standard = "standard"
    adversarial = "adversarial"
    mixed = "mixed"


class StopName(StrEnum):
    none = "none"
    clean = "clean"
    adversarial = "adversarial"


def train(
    robust: Annotated[bool | None, typer.Option("--robust/--standard", help="Against an attack, or not.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    on: Annotated[
        Path | None, typer.Option(help="A dataset (.h5) to train on alone, as fresh models of its kind are.")
    ] = None,
    model: ModelOption = None,
    loss: Annotated[
        LossName | None,
        typer.Option(help="On clean images, on attacked ones, or on both; the last two imply --robust."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="With --loss mixed: the weight of the clean images. Default: 0.5.")
    ] = None,
    norm: Annotated[NormName | None, typer.Option(help="The attack's norm; implies --robust.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="The attack's radius, such as 0.5 or 8/255; implies --robust.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="The attack's steps; implies --robust.")] = None,
    step_size: Annotated[
        str | None, typer.Option(help="Length of a step; one step as long as the radius is FGSM. Implies --robust.")
    ] = None,
    random_start: Annotated[
        bool | None,
        typer.Option("--random-start/--no-random-start", help="Where the attack starts; implies --robust."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    early_stop: Annotated[
        StopName | None, typer.Option(help="Keep the epoch of the smallest error, of this kind, on images held out.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a smaller error before training ends; 0 runs all of them.")
    ] = None,
    held_out: Annotated[float | None, typer.Option(help="The share of the training images held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The .safetensors file to write.")] = None,
    named: Annotated[
        RecipeName | None,
        typer.Option("--recipe", help="The attack's steps: the paper's, or fewer that do as well; implies --robust."),
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Train a model, standard or adversarially, and save it with its settings and its own accuracies.

    featuregen train --out out/standard.safetensors

    featuregen train --eps 0.5 --recipe paper --out out/robust.safetensors

    featuregen train --norm linf --eps 8/255 --data mine.npz --model resnet9

    featuregen train --eps 0.5 --steps 1 --step-size 0.5 --random-start

    featuregen train --loss mixed --alpha 0.5 --early-stop adversarial

    featuregen train --on datasets_out/digits-robust.h5 --out out/dr.safetensors

    torchrun --nproc-per-node 2 -m featuregen train --robust
    """
    check_ending(out, ".safetensors", "a saved model")
    attack: dict[str, Any] = {"norm": norm and norm.value, "eps": eps, "steps": steps, "step_size": step_size}
    attack = given(attack | {"random_start": random_start})
    asked = [f"--{name.replace('_', '-')}" for name in [*attack, *(["recipe"] if named else [])]]
    which = _which(robust, loss, asked)
    if which == "standard" and early_stop == StopName.adversarial and not on:
        raise UserError("--early-stop adversarial needs an attack to train against; add --robust, or choose clean.")
    recipe: dict[str, Any] = {"epochs": epochs, "lr": lr, "alpha": _alpha(loss, alpha), "patience": patience}
    recipe |= {"early_stop": early_stop and early_stop.value, "held_out": held_out}
    values = common(model, seed, device, precision)
    stopping = given({"--patience": patience, "--held-out": held_out})
    if on:
        if which == "robust":
            words = ", ".join([*asked, *(["--robust"] if robust else []), *([f"--loss {loss}"] if loss else [])])
            raise UserError(
                f"--on trains as fresh models of that kind are; leave out {words}, or set an attack of theirs, such as "
                "--set fresh.robust.attack.eps=0.5."
            )
        _train_on(on, config, values | {"data.name": data}, recipe, set_, out, force, stopping)
        return
    if step_size is None and (steps or (attack.keys() & {"norm", "eps"} and not named)):
        attack["step_size"] = 0
    values |= {f"sources.robust.attack.{key}": value for key, value in attack.items()}
    values |= {f"sources.{which}.{key}": value for key, value in recipe.items()}
    settings = settings_of(config, data, set_, values, named, kinds=[], trains=True)
    _train_source(which, settings, out, force, stopping)


def _train_source(which: str, settings: Any, out: Path | None, force: bool, stopping: dict[str, Any]) -> None:
    from featuregen.experiment import Experiment
    from featuregen.runtime import init_distributed

    chosen = getattr(settings.sources, which)
    _check_stopping(chosen.early_stop, stopping)
    row = "mixed" if which == "robust" and chosen.alpha else which
    with init_distributed(settings.runtime.device) as dist:
        with dist.main_first():
            experiment = Experiment(settings, out.parent if out else OUT, dist=dist)
        if out and not force:
            experiment.models.check_output_free(out, experiment.train_set, chosen, settings.seed)
        trained = experiment.source_model(which)
    if dist.is_main:
        _tell(f"{experiment.base.name}, {row}", trained, out, force)


def _which(robust: bool | None, loss: LossName | None, asked: list[str]) -> str:
    """Whether it is the standard recipe or the robust one, in one sentence if the options disagree."""
    if robust is not None and loss is not None and robust == (loss == LossName.standard):
        raise UserError(f"--{'robust' if robust else 'standard'} and --loss {loss} disagree; leave out one of them.")
    plain = "--standard" if robust is False else "--loss standard" if loss == LossName.standard else ""
    if asked and plain:
        raise UserError(f"{plain} trains without an attack; leave out {' and '.join(asked)}, or {plain}.")
    return "robust" if robust or asked or loss in (LossName.adversarial, LossName.mixed) else "standard"


def _alpha(loss: LossName | None, alpha: float | None) -> float | None:
    """None leaves the config's."""
    if loss != LossName.mixed:
        if alpha is not None:
            raise UserError(f"--alpha {alpha:g} is for the mixed loss; add --loss mixed, or leave out --alpha.")
        return 0.0 if loss == LossName.adversarial else None
    if alpha == 0:
        raise UserError("--alpha 0 leaves the attacked images alone, which is --loss adversarial; choose that.")
    return 0.5 if alpha is None else alpha


def _check_stopping(early_stop: str, options: dict[str, Any]) -> None:
    if options and early_stop == "none":
        names = " and ".join(options)
        raise UserError(
            f"{names}: nothing is held out without --early-stop clean or adversarial; add that, or drop this."
        )


def _train_on(
    path: Path,
    config: str | None,
    values: dict[str, Any],
    recipe: dict[str, Any],
    overrides: list[str] | None,
    out: Path | None,
    force: bool,
    stopping: dict[str, Any],
) -> None:
    check_ending(path, ".h5", "a dataset", "--on")
    from featuregen.config import load_config
    from featuregen.experiment import FRESH_SEED, experiment_on
    from featuregen.runtime import init_distributed
    from featuregen.storage import FeatureDataset

    chosen, folder = load_config(config) if config else None, out.parent if out else OUT
    options: dict[str, Any] = {"values": given(values), "overrides": overrides or (), "recipe": given(recipe)}
    with init_distributed(values["runtime.device"]) as dist:
        with dist.main_first():
            data = FeatureDataset(path)
            experiment = experiment_on(data, chosen, **options, out=folder, dist=dist)
            images, training = experiment.training_images(data), experiment.fresh_recipe(data.info.kind)
        _check_stopping(training.early_stop, stopping)
        if out and not force:
            experiment.models.check_output_free(out, images, training, experiment.config.seed + FRESH_SEED)
        (trained,) = experiment.train_fresh(images, 1, training, images.name)
    if dist.is_main:
        _tell(images.name, trained, out, force)


def _tell(title: str, trained: Any, out: Path | None, force: bool) -> None:
    from featuregen.experiment import copy_model, run_record
    from featuregen.report import evaluation_table

    path = copy_model(trained.path, out, force) if out else trained.path
    print(evaluation_table([{"title": title, "runs": [run_record(trained)]}]))
    print(path)
