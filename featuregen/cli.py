"""The commands: parse, call, print. Nothing heavy is imported before a command runs, so that help is instant."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from featuregen.errors import CheckFailed, UserError

_P = ParamSpec("_P")
OUT = Path("datasets_out")

app = typer.Typer(
    name="featuregen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Make, share and check robust and non-robust image datasets (Ilyas et al. 2019).

Start here:

    featuregen reproduce

    featuregen make-robust-dataset

    featuregen evaluate datasets_out/digits-robust.h5
""",
)


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


ConfigOption = Annotated[
    str | None,
    typer.Option(help="A shipped config's name or a YAML file. Default: the one of the image set, or digits."),
]
DataOption = Annotated[
    str | None, typer.Option(help="digits, cifar10, mnist, fashion-mnist, or the path of a Keras-style .npz.")
]
ModelOption = Annotated[str | None, typer.Option(help="Architecture; `featuregen models` lists them.")]
SourceOption = Annotated[Path | None, typer.Option(help="A saved model to use instead of training one.")]
OutOption = Annotated[Path | None, typer.Option(help="The HDF5 file to write.")]
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
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output made with other settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def guarded(command: Callable[_P, None]) -> Callable[_P, None]:
    """Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except CheckFailed as error:
            print(f"failed: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print(
                "stopped; everything finished so far is kept, and the same command goes on from there", file=sys.stderr
            )
            raise typer.Exit(130) from None

    return run


def _settings(config: str | None, data: str | None, overrides: list[str] | None, values: dict[str, Any]) -> Any:
    """The config, then the options that were given, then every --set."""
    from featuregen.config import config_names, load_config

    name = config or (data if data in config_names() else "digits")
    if config is None and data not in (None, name):
        print(
            f"note: no config is named '{data}', so the recipes are those of '{name}'; give --config", file=sys.stderr
        )
    return load_config(name, overrides or (), _given({"data.name": data} | values))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _make(
    kind: str,
    config: str | None,
    data: str | None,
    source: Path | None,
    out: Path | None,
    force: bool,
    overrides: list[str] | None,
    values: dict[str, Any],
    recipe: dict[str, Any],
) -> None:
    values |= {f"synthesis.{kind}.{name}": value for name, value in recipe.items()}
    settings = _settings(config, data, overrides, values)
    from featuregen.pipeline import Workshop, draw_preview

    folder = out.parent if out else OUT
    shop = Workshop(settings, folder)
    path = out or folder / f"{shop.base.name}-{kind}.h5"
    info = shop.make(kind, path, source=shop.load_source(source) if source else None, force=force)
    picture = draw_preview(shop, path, path.with_suffix(".png"))
    print(describe(info))
    print(f"{path}\n{picture}")


@app.command("make-robust-dataset")
@guarded
def make_robust_dataset(
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    source: SourceOption = None,
    out: OutOption = None,
    steps: StepsOption = None,
    step_size: StepSizeOption = None,
    start: StartOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    rows: RowsOption = None,
    dtype: DtypeOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Make D_R: images that hold only what a robust model looks at.

    Trains the robust source model (or finds it trained), synthesises the set, writes HDF5 and a preview beside it.

        featuregen make-robust-dataset

        featuregen make-robust-dataset --start noise --steps 300 --out out/noise.h5

        featuregen make-robust-dataset --data .data/cifar10.npz --model resnet9 --rows 1000
    """
    kind = "robust-noise" if start == StartName.noise else "robust"
    values = _common(model, seed, device, precision)
    recipe = {"steps": steps, "step_size": step_size, "rows": rows, "dtype": dtype and dtype.value}
    _make(kind, config, data, source, out, force, set_, values, recipe)


@app.command("make-dataset")
@guarded
def make_dataset(
    kind: Annotated[KindName, typer.Argument(help="Which set to make.")],
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    source: SourceOption = None,
    out: OutOption = None,
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
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Make any of the sets: robust, nonrobust, robust-noise, nonrobust-noise, rand, det.

    featuregen make-dataset det

    featuregen make-dataset rand --eps 1.0 --norm l2 --steps 100

    featuregen make-dataset nonrobust --start noise --seed 3 --out out/dnr.h5
    """
    name = _with_start(kind.value, start)
    values = _common(model, seed, device, precision)
    recipe = {
        "steps": steps, "step_size": step_size, "eps": eps, "norm": norm and norm.value, "rows": rows,
        "dtype": dtype and dtype.value,
    }  # fmt: skip
    _make(name, config, data, source, out, force, set_, values, recipe)


def _common(model: str | None, seed: int | None, device: str | None, precision: PrecisionName | None) -> dict[str, Any]:
    values = {"seed": seed, "runtime.device": device, "runtime.precision": precision and precision.value}
    # Another architecture brings its own width.
    return values | ({"model.architecture": model, "model.width": 0} if model else {})


def _with_start(kind: str, start: StartName | None) -> str:
    if start is None:
        return kind
    plain = kind.removesuffix("-noise")
    if plain in ("rand", "det"):
        raise UserError(f"--start does not apply to {kind}, which starts at the base image itself.")
    if kind != plain and start == StartName.image:
        raise UserError(f"{kind} starts from noise; for --start image make {plain}.")
    return f"{plain}-noise" if start == StartName.noise else plain


@app.command()
@guarded
def train(
    robust: Annotated[bool, typer.Option("--robust/--standard", help="Against an attack, or not.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    norm: Annotated[NormName | None, typer.Option(help="The attack's norm; implies --robust.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="The attack's radius, such as 0.5 or 8/255; implies --robust.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="The attack's steps; implies --robust.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    out: Annotated[Path | None, typer.Option(help="The .safetensors file to write.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Train a model, standard or adversarially, and save it with its settings and its own accuracies.

    featuregen train --out out/standard.safetensors

    featuregen train --robust --norm l2 --eps 0.5 --steps 7 --out out/robust.safetensors

    featuregen train --norm linf --eps 8/255 --data .data/cifar10.npz --model resnet9
    """
    robust = robust or norm is not None or eps is not None or steps is not None
    which = "robust" if robust else "standard"
    attack = {
        f"sources.robust.attack.{key}": value
        for key, value in {"norm": norm and norm.value, "eps": eps, "steps": steps}.items()
    }
    if steps or eps or norm:
        attack["sources.robust.attack.step_size"] = 0
    values = _common(model, seed, device, precision) | attack
    values |= {f"sources.{which}.epochs": epochs, f"sources.{which}.lr": lr}
    settings = _settings(config, data, set_, values)
    from featuregen.pipeline import Workshop, copy_model, run_of
    from featuregen.report import evaluation_table

    shop = Workshop(settings, out.parent if out else OUT)
    trained = shop.source(which)
    path = copy_model(trained.path, out, force) if out else trained.path
    print(evaluation_table([{"title": f"{shop.base.name}, {which}", "runs": [run_of(trained)]}]))
    print(path)


@app.command()
@guarded
def evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Datasets (.h5) and saved models (.safetensors).")],
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    seeds: Annotated[int | None, typer.Option(help="Fresh models per dataset.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the dataset.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    out: Annotated[Path, typer.Option(help="The folder that keeps the fresh models.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    set_: SetOption = None,
) -> None:
    """Train fresh models on a dataset alone and test them on the untouched test set; or test a saved model.

    featuregen evaluate datasets_out/digits-robust.h5

    featuregen evaluate datasets_out/digits-det.h5 datasets_out/digits-rand.h5 --seeds 5 --json

    featuregen evaluate out/robust.safetensors --set evaluation.l2=[0.25,0.5]
    """
    values = _given(_common(model, seed, device, precision) | {"evaluation.seeds": seeds, "data.name": data})
    recipe = _given({"epochs": epochs, "lr": lr})
    from featuregen.config import load_config
    from featuregen.pipeline import evaluate_path

    chosen = load_config(config) if config else None
    rows = [evaluate_path(path, chosen, values=values, overrides=set_ or (), recipe=recipe, out=out) for path in paths]
    if json_:
        print(json.dumps({"format": "featuregen-evaluation", "version": 1, "models": rows}, indent=2))
        return
    from featuregen.report import evaluation_table

    print(evaluation_table(rows))


@app.command()
@guarded
def reproduce(
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    seeds: Annotated[int | None, typer.Option(help="Models per row of the table.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for models, datasets and report.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """The whole experiment from one config: source models, all six sets, fresh models on each, one table, one report.

    Interrupted and started again, it goes on where it stopped.

        featuregen reproduce

        featuregen reproduce --seeds 5 --out runs/five

        featuregen reproduce --config my.yaml --data .data/cifar10.npz
    """
    values = _common(model, seed, device, precision) | {"evaluation.seeds": seeds}
    settings = _settings(config, data, set_, values)
    from featuregen.pipeline import Workshop, write_results
    from featuregen.pipeline import reproduce as run
    from featuregen.report import results_table

    folder = out / settings.name
    shop = Workshop(settings, out)
    results = run(shop, folder, force)
    page = write_results(shop, results, folder)
    print(json.dumps(results, indent=2) if json_ else results_table(results))
    print(f"report: {page}", file=sys.stderr if json_ else sys.stdout)


@app.command()
@guarded
def info(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5) or a saved model.")], json_: JsonOption = False
) -> None:
    """What a file holds and how it was made.

    featuregen info datasets_out/digits-robust.h5
    """
    from featuregen.pipeline import is_model

    if is_model(file):
        from featuregen.models import read_model_record

        print(json.dumps(read_model_record(file), indent=2))
        return
    from featuregen.store import read_info

    found = read_info(file)
    print(json.dumps(found.to_dict(), indent=2) if json_ else describe(found))


@app.command()
@guarded
def preview(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write. Default: beside the dataset.")] = None,
    data: DataOption = None,
) -> None:
    """Draw base image, start image and result of ten rows.

    featuregen preview datasets_out/digits-det.h5 --out det.png
    """
    from featuregen.pipeline import draw_preview, workshop_of

    print(draw_preview(workshop_of(file, data), file, out or file.with_suffix(".png")))


@app.command()
@guarded
def verify(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    data: DataOption = None,
    source: Annotated[Path | None, typer.Option(help="The source model: success is recomputed with it.")] = None,
    json_: JsonOption = False,
) -> None:
    """Check a dataset: checksums, shapes, ranges, the ball, labels against the kind's rule, success.

    Exit code 1 if a check fails.

        featuregen verify datasets_out/digits-det.h5

        featuregen verify sent-to-me.h5 --data .data/cifar10.npz --source standard.safetensors
    """
    from featuregen.pipeline import verify_file

    checks = verify_file(file, data, source)
    if json_:
        print(json.dumps([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks], indent=2))
    else:
        for check in checks:
            print(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise CheckFailed(f"{file}: {', '.join(failed)}")


@app.command()
@guarded
def models() -> None:
    """List the architectures, and the images each of them takes.

    featuregen models
    """
    from featuregen.models import architecture_table

    print(architecture_table())


def describe(found: Any) -> str:
    """A dataset in a few lines."""
    from featuregen.synthesis import RULES

    recipe, base, source = found.recipe.get("synthesis", {}), found.base, found.source_model
    ball = "" if recipe.get("norm", "none") == "none" else f", {recipe['norm']} eps {recipe['eps']:g}"
    meaning = RULES[found.kind].meaning if found.kind in RULES else "unknown kind"
    channels, height, width = found.image_shape
    return "\n".join([
        f"{found.kind}: {meaning}",
        f"  rows     {found.rows} of {base.get('name')}, {channels}×{height}×{width} {found.dtype}, "
        f"{len(found.classes)} classes, {os.path.getsize(found.path) / 2**20:.1f} MiB",
        f"  made     {recipe.get('steps')} steps of {recipe.get('step_size')} ({recipe.get('schedule')}){ball}, "
        f"seed {found.recipe.get('seed')}",
        f"  source   {source.get('architecture')}, weights {str(source.get('weights_sha256'))[:12]}",
        f"  success  {found.success_rate:.1%} of rows are seen by the source as the label they carry",
        f"  content  {found.content_sha256}",
    ])  # fmt: skip


def main() -> int:
    app()
    return 0
