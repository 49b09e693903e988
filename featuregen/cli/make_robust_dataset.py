"""`featuregen make-robust-dataset`."""

from __future__ import annotations

from featuregen.cli.make_dataset import make_dataset
from featuregen.cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    RecipeOption,
    RowsOption,
    SeedOption,
    SetOption,
    ShardOption,
    SourceOption,
    StartOption,
    StepSizeOption,
    StepsOption,
)


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
    """Make D_R: images that contain only the features a robust model relies on.

    Trains the robust source model (or loads it from the cache), synthesises the dataset, and writes it as HDF5 with a
    preview beside it.

        featuregen make-robust-dataset

        featuregen make-robust-dataset --start noise --recipe paper --out out/noise.h5

        featuregen make-robust-dataset --data mine.npz --model resnet9 --rows 1000

        featuregen make-robust-dataset --config cifar10-fast --shard 2/7
    """
    make_dataset(
        "robust", config=config, data=data, model=model, source=source, out=out, named=named, steps=steps,
        step_size=step_size, start=start, seed=seed, device=device, precision=precision, rows=rows, dtype=dtype,
        shard=shard, force=force, set_=set_,
    )  # fmt: skip
