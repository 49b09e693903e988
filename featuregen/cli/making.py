"""Commands that make: datasets, models, a whole experiment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    EpsOption,
    ForceOption,
    JsonOption,
    KindName,
    ModelOption,
    NormOption,
    OutOption,
    PrecisionOption,
    RecipeName,
    RecipeOption,
    RowsOption,
    SeedOption,
    SetOption,
    ShardOption,
    SourceOption,
    StartName,
    StartOption,
    StepSizeOption,
    StepsOption,
    check_ending,
    common,
    settings_of,
)
from featuregen.cli.reading import describe
from featuregen.errors import UserError


def make_robust_dataset(
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    source: SourceOption = None,
    out: OutOption = None,
    named: RecipeOption = None,
    steps: StepsOption = None,
    step_size: StepSizeOption = None,
    start: StartOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    rows: RowsOption = None,
    dtype: DtypeOption = None,
    shard: ShardOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Make D_R: images that hold only what a robust model looks at.

    Trains the robust source model (or finds it trained), synthesises the set, writes HDF5 and a preview beside it.

        featuregen make-robust-dataset

        featuregen make-robust-dataset --start noise --recipe paper --out out/noise.h5

        featuregen make-robust-dataset --data mine.npz --model resnet9 --rows 1000

        featuregen make-robust-dataset --config cifar10-fast --shard 2/7
    """
    kind = "robust-noise" if start == StartName.noise else "robust"
    values = common(model, seed, device, precision)
    recipe = {"steps": steps, "step_size": step_size, "rows": rows, "dtype": dtype and dtype.value}
    _make(kind, config, data, source, out, shard, force, set_, values, named, recipe)


def make_dataset(
    kind: Annotated[KindName, typer.Argument(help="Which set to make.")],
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    source: SourceOption = None,
    out: OutOption = None,
    named: RecipeOption = None,
    steps: StepsOption = None,
    step_size: StepSizeOption = None,
    eps: EpsOption = None,
    norm: NormOption = None,
    start: StartOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    rows: RowsOption = None,
    dtype: DtypeOption = None,
    shard: ShardOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Make any of the sets: robust, nonrobust, robust-noise, nonrobust-noise, rand, det.

    featuregen make-dataset det

    featuregen make-dataset rand --eps 1.0 --norm l2 --steps 100

    featuregen make-dataset nonrobust --start noise --seed 3 --out out/dnr.h5

    featuregen make-dataset det --config cifar10-fast --shard 2/7

    torchrun --nproc-per-node 4 -m featuregen make-dataset det
    """
    name = _with_start(kind.value, start)
    values = common(model, seed, device, precision)
    recipe = {
        "steps": steps, "step_size": step_size, "eps": eps, "norm": norm and norm.value, "rows": rows,
        "dtype": dtype and dtype.value,
    }  # fmt: skip
    _make(name, config, data, source, out, shard, force, set_, values, named, recipe)


def reproduce(
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    seeds: Annotated[int | None, typer.Option(help="Models per row of the table.")] = None,
    standard_from: Annotated[
        Path | None, typer.Option(help="A saved model, or a checkpoint of robustness, as the standard source.")
    ] = None,
    robust_from: Annotated[Path | None, typer.Option(help="The same as the robust source.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for models, datasets and report.")] = OUT,
    named: RecipeOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the stages with their expected time and memory, and stop.")
    ] = False,
    json_: JsonOption = False,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """The whole experiment from one config: source models, its sets, fresh models on each, one table, one report.

    Interrupted and started again, it goes on where it stopped.

        featuregen reproduce

        featuregen reproduce --seeds 5 --out runs/five

        featuregen reproduce --config my.yaml --data mine.npz

        featuregen reproduce --config cifar10-paper --dry-run

        featuregen reproduce --config cifar10-fast --robust-from cifar_l2_0_5.pt
    """
    values = common(model, seed, device, precision) | {"evaluation.seeds": seeds}
    values |= {
        f"sources.{which}_from": path and str(path)
        for which, path in (("standard", standard_from), ("robust", robust_from))
    }
    settings = settings_of(config, data, set_, values, named, trains=True)
    from featuregen.experiment import Experiment, cost_of, estimate_cost, write_results
    from featuregen.experiment import reproduce as run
    from featuregen.report import cost_sentence, cost_table, results_table

    if dry_run:
        plan = estimate_cost(settings, out).to_dict()
        print(json.dumps(plan, indent=2) if json_ else cost_table(plan))
        return
    experiment = Experiment(settings, out)
    print(
        f"note: {cost_sentence(cost_of(settings, experiment.base.size, experiment.compute).to_dict())}", file=sys.stderr
    )
    # The same recipes on other images are another experiment.
    folder = out / (
        f"{settings.name}-{experiment.base.name}"
        if data and experiment.base.name not in settings.name
        else settings.name
    )
    results = run(experiment, folder, force)
    page = write_results(experiment, results, folder)
    print(json.dumps(results, indent=2) if json_ else results_table(results))
    print(f"report: {page}", file=sys.stderr if json_ else sys.stdout)


def _make(
    kind: str,
    config: str | None,
    data: str | None,
    source: Path | None,
    out: Path | None,
    shard: str | None,
    force: bool,
    overrides: list[str] | None,
    values: dict[str, Any],
    named: RecipeName | None,
    recipe: dict[str, Any],
) -> None:
    check_ending(out, ".h5", "a dataset")
    if source and "model.architecture" in values:
        raise UserError(f"--model names what to train and {source} is trained already; leave one of the two out.")
    values |= {f"synthesis.{kind}.{name}": value for name, value in recipe.items()}
    settings = settings_of(config, data, overrides, values, named, [kind])
    from featuregen.experiment import draw_preview, make_distributed, parse_shard
    from featuregen.runtime import dist_from_env, init_distributed

    if shard and dist_from_env().world_size > 1:
        raise UserError(f"torchrun gives each of its processes a shard; leave out --shard {shard}, or torchrun.")
    part, place = parse_shard(shard) if shard else None, (out.parent if out else OUT, kind, out, source, force)
    with init_distributed(settings.runtime.device) as dist:
        made = make_distributed(dist, settings, *place) if dist.world_size > 1 else _make_alone(settings, *place, part)
    if made is None:
        return
    experiment, info = made
    # A part is nothing to look at yet.
    picture = [] if part else [draw_preview(experiment, info.path, info.path.with_suffix(".png"))]
    print(describe(info))
    print(*(info.path, *picture), sep="\n")


def _make_alone(
    settings: Any, folder: Path, kind: str, out: Path | None, source: Path | None, force: bool, part: Any
) -> tuple[Any, Any]:
    from featuregen.experiment import Experiment, dataset_path, make_shard, warn_unused_shards

    experiment = Experiment(settings, folder)
    path = out or dataset_path(folder, experiment.base.name, kind)
    given = experiment.load_model(source) if source else None
    if part:
        return experiment, make_shard(experiment, kind, path, part, given, force)
    warn_unused_shards(path)
    return experiment, experiment.write_dataset(experiment.dataset_job(kind), path, given, force)


def _with_start(kind: str, start: StartName | None) -> str:
    if start is None:
        return kind
    from featuregen.config import MISLABELLED

    plain = kind.removesuffix("-noise")
    if plain in MISLABELLED:
        raise UserError(f"--start does not apply to {kind}, which starts at the base image itself.")
    if kind != plain and start == StartName.image:
        raise UserError(f"{kind} starts from noise; for --start image make {plain}.")
    return f"{plain}-noise" if start == StartName.noise else plain
