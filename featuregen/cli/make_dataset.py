"""`featuregen make-dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featuregen.cli.info import describe
from featuregen.cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    EpsOption,
    ForceOption,
    ModelOption,
    NormOption,
    OutOption,
    PrecisionOption,
    RecipeOption,
    RowsOption,
    SeedOption,
    SetOption,
    ShardOption,
    SourceOption,
    Start,
    StartOption,
    StepSizeOption,
    StepsOption,
    check_kind,
    check_output,
    common_values,
    load_settings,
    output_folder,
)
from featuregen.config.kinds import KINDS
from featuregen.config.recipes import NamedRecipe
from featuregen.config.schema import Config
from featuregen.errors import UserError
from featuregen.runtime.console import show, show_paths

if TYPE_CHECKING:
    from featuregen.experiment.experiment import Experiment
    from featuregen.storage.torch_dataset import FeatureDataset


def make_dataset(
    kind: Annotated[
        str,
        typer.Argument(help="robust, nonrobust, robust-noise, nonrobust-noise, rand, det, or one that a plugin adds."),
    ],
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
    """Make a dataset of any kind: robust, nonrobust, robust-noise, nonrobust-noise, rand, det.

    featuregen make-dataset det

    featuregen make-dataset rand --eps 1.0 --norm l2 --steps 100

    featuregen make-dataset nonrobust --start noise --seed 3 --out out/dnr.h5

    featuregen make-dataset det --config cifar10-fast --shard 2/7

    torchrun --nproc-per-node 4 -m featuregen make-dataset det
    """
    check_output(out, ".h5", "a dataset")
    kind = _kind_with_start(kind, start)
    if source and model:
        raise UserError(
            f"--model names what to train, but the model {source} is already trained; leave one of them out."
        )
    recipe = {"steps": steps, "step_size": step_size, "eps": eps, "norm": norm, "rows": rows, "dtype": dtype}
    values = common_values(model, seed, device, precision)
    values |= {f"synthesis.{kind}.{name}": value for name, value in recipe.items()}
    settings = load_settings(config, data, set_, values, NamedRecipe(named, (kind,)) if named else None)
    from featuregen.runtime.distributed import dist_from_env

    if shard and dist_from_env().world_size > 1:
        raise UserError(f"torchrun gives each of its processes a shard; leave out --shard {shard}, or torchrun.")
    written = _write_dataset(kind, settings, source, out, shard, force)
    if written is None:
        return
    experiment, dataset = written
    files = [dataset.path]
    # A single shard is not worth a preview.
    if not shard:
        from featuregen.experiment.outputs import draw_preview

        files.append(draw_preview(experiment, dataset, dataset.path.with_suffix(".png"), force))
    show(describe(dataset.info))
    show_paths(files)


def _kind_with_start(kind: str, start: Start | None) -> str:
    """The kind that an option --start asks for: each kind that starts from noise has a name of its own."""
    check_kind(kind)
    if start is None or start == KINDS[kind].start:
        return kind
    if KINDS[kind].start == "self":
        raise UserError(f"--start does not apply to {kind}, which starts at the base image itself.")
    if start == "image":
        other = kind.removesuffix("-noise")
        hint = f"for --start image make {other}" if other in KINDS and other != kind else "leave out --start"
        raise UserError(f"{kind} starts from noise; {hint}.")
    check_kind(f"{kind}-noise")
    return f"{kind}-noise"


def _write_dataset(
    kind: str, settings: Config, source: Path | None, out: Path | None, shard: str | None, force: bool
) -> tuple[Experiment, FeatureDataset] | None:
    """Write the dataset or one shard of it; None in a process of torchrun that is not the main one."""
    from featuregen.experiment.dataset_job import dataset_path, warn_unused_shards
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.shards import make_distributed, make_shard, parse_shard
    from featuregen.runtime.distributed import init_distributed
    from featuregen.runtime.marks import check_replaceable

    part = parse_shard(shard) if shard else None
    folder = output_folder(out)
    with init_distributed(settings.runtime.device) as dist:
        if dist.world_size > 1:
            return make_distributed(dist, settings, folder, kind, out, source, force)
        experiment = Experiment(settings, folder)
        path = out or dataset_path(folder, experiment.base.name, kind)
        source_model = experiment.load_model(source) if source else None
        if part:
            return experiment, make_shard(experiment, kind, path, part, source_model, force)
        check_replaceable(path.with_suffix(".png"), force=force)
        warn_unused_shards(path)
        return experiment, experiment.write_dataset(experiment.dataset_job(kind), path, source_model, force)
