"""Commands on what exists: evaluate, tell, draw, check."""

from __future__ import annotations

import json
import math
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
    check_ending,
    common,
    given,
)
from featuregen.errors import CheckFailed, UserError, printable


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
        typer.Option(help="Try several: lr, or lr=0.01,0.1, or any setting of the training; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder that keeps the fresh models.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    set_: SetOption = None,
) -> None:
    """Train fresh models on a dataset alone and test them on the untouched test set; or test a saved model.

    The last column is how well each fitted what it was trained on, attacked as it was then.

    featuregen evaluate datasets_out/digits-robust.h5

    featuregen evaluate out/det.h5 out/rand.h5 --seeds 5 --json

    featuregen evaluate out/rand.h5 --sweep lr --sweep optimizer=sgd,adamw

    featuregen evaluate out/robust.safetensors --set evaluation.l2=[0.25,0.5]

    featuregen evaluate plain.safetensors mixed.safetensors dr.safetensors

    featuregen evaluate cifar_l2_0_5.pt --config cifar10-paper
    """
    values = given(common(model, seed, device, precision) | {"evaluation.seeds": seeds, "data.name": data})
    recipe = given({"epochs": epochs, "lr": lr})
    from featuregen.config import load_config
    from featuregen.experiment import evaluate_file, is_model, sweep_file

    for_datasets = given({
        "--model": model, "--seeds": seeds, "--epochs": epochs, "--lr": lr, "--sweep": sweep, "--precision": precision,
    })  # fmt: skip
    if for_datasets and all(is_model(path) for path in paths):
        raise UserError(f"{paths[0]} is trained already; {', '.join(for_datasets)} go with a dataset.")
    chosen = load_config(config) if config else None
    grid = _grid(sweep or [], given({"lr": lr, "epochs": epochs}))
    rows = []
    for path in paths:
        options: dict[str, Any] = {"values": values, "overrides": set_ or (), "out": out}
        if is_model(path):
            rows.append(evaluate_file(path, chosen, **options))
        else:
            rows += sweep_file(path, grid, chosen, recipe=recipe, **options)
    if json_:
        print(json.dumps({"format": "featuregen-evaluation", "version": 1, "models": rows}, indent=2))
        return
    from featuregen.report import evaluation_table

    print(evaluation_table(rows))


def _grid(sweep: list[str], fixed: dict[str, Any]) -> dict[str, list[str]]:
    """What to try, from texts such as `lr` and `optimizer=sgd,adamw`."""
    grid: dict[str, list[str]] = {}
    for text in sweep:
        name, _, values = (part.strip() for part in text.partition("="))
        if name in fixed:
            raise UserError(f"--sweep {name} tries several and --{name} {fixed[name]} sets one; leave out one of them.")
        if name in grid:
            raise UserError(f"--sweep {name} is given twice; list its values in one.")
        grid[name] = [value.strip() for value in values.split(",") if value.strip()]
        if not grid[name] and name != "lr":
            raise UserError(f"--sweep {text} names no values; give them as {name or 'lr'}=a,b.")
    return grid


def info(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5) or a saved model.")], json_: JsonOption = False
) -> None:
    """What a file holds and how it was made.

    featuregen info datasets_out/digits-robust.h5
    """
    from featuregen.experiment import is_model

    if is_model(file):
        from featuregen.experiment import describe_model_file

        print(json.dumps(describe_model_file(file), indent=2))
        return
    from featuregen.storage import read_info

    found = read_info(file)
    print(json.dumps(found.to_dict(), indent=2) if json_ else describe(found))


def preview(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write. Default: beside the dataset.")] = None,
    data: DataOption = None,
) -> None:
    """Draw base image, start image and result of ten rows.

    featuregen preview datasets_out/digits-det.h5 --out det.png
    """
    check_ending(out, ".png", "a picture")
    from featuregen.experiment import draw_preview, experiment_of

    print(draw_preview(experiment_of(file, data), file, out or file.with_suffix(".png")))


def verify(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    data: DataOption = None,
    source: Annotated[Path | None, typer.Option(help="The source model: success is recomputed with it.")] = None,
    json_: JsonOption = False,
) -> None:
    """Check a dataset: checksums, shapes, ranges, the ball, labels against the kind's rule, success.

    What needs the base images is left out, and a note says so, where they are not here. Exit code 1 if a check fails.

        featuregen verify datasets_out/digits-det.h5

        featuregen verify sent.h5 --data mine.npz --source standard.safetensors
    """
    from featuregen.experiment import verify

    checks = verify(file, data, source)
    if json_:
        print(json.dumps([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks], indent=2))
    else:
        for check in checks:
            print(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {printable(check.detail)}")
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise CheckFailed(f"{file}: {', '.join(failed)}")


def models() -> None:
    """List the architectures, and the images each of them takes.

    featuregen models
    """
    from featuregen.models import architecture_table

    print(architecture_table())


def _made(recipe: Any) -> str:
    """How a dataset was made, which a stranger's file may tell in any way it likes."""
    from featuregen.report import describe_attack

    if "imported" in recipe:
        return "elsewhere, imported from the authors' layout"
    try:
        if "attack" in recipe:
            return f"{describe_attack(recipe['attack'])}, seed {recipe.get('seed')}"
        steps = recipe.get("synthesis", {})
        ball = "" if steps.get("norm", "none") == "none" else f", {steps['norm']} eps {steps['eps']:g}"
        return (
            f"{steps.get('steps')} steps of {steps.get('step_size')} ({steps.get('schedule')}){ball}, "
            f"seed {recipe.get('seed')}"
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return "by a recipe that featuregen does not know"


def describe(found: Any) -> str:
    """A dataset in a few lines."""
    from featuregen.synthesis import meaning_of

    base, source = found.base, found.source_model
    weights = f"{source.get('architecture')}, weights {str(source.get('weights_sha256'))[:12]}"
    success = f"{found.success_rate:.1%} of rows are seen by the source as the label they carry"
    shard, part = found.recipe.get("shard"), ""
    if isinstance(shard, dict):
        part = f" (shard {shard.get('number')} of {shard.get('of')}, {shard.get('rows')} rows in all)"
    channels, height, width = found.image_shape
    return "\n".join(map(printable, [
        f"{found.kind}: {meaning_of(found.kind) or 'unknown kind'}",
        f"  rows     {found.rows}{part} of {base.get('name')}, {channels}×{height}×{width} {found.dtype}, "
        f"{len(found.classes)} classes, {found.size / 2**20:.1f} MiB",
        f"  made     {_made(found.recipe)}",
        f"  source   {weights if source else 'not recorded'}",
        f"  success  {'not recorded' if math.isnan(found.success_rate) else success}",
        f"  content  {found.content_sha256}",
    ]))  # fmt: skip
