"""`featuregen info`, and the summary of a dataset that other commands print as well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featuregen.cli.options import JsonOption
from featuregen.errors import join_lines
from featuregen.runtime.console import show, show_json

if TYPE_CHECKING:
    from featuregen.storage.reader import DatasetInfo


def info(
    file: Annotated[Path, typer.Argument(help="A dataset (.h5) or a saved model.")], json_: JsonOption = False
) -> None:
    """Print what a file contains and how it was made.

    featuregen info datasets_out/digits-robust.h5
    """
    from featuregen.interop.load import is_model_file, model_header

    if is_model_file(file):
        header = model_header(file)
        show_json(header if json_ else _shortened(header))
        return
    from featuregen.storage.reader import read_info

    content = read_info(file)
    if json_:
        show_json(content.to_dict())
    else:
        show(describe(content))


def _shortened(value: Any) -> Any:
    """The same with long texts cut, for a terminal."""
    if isinstance(value, str):
        # JSON writes any other character as up to twelve.
        longest = 200 if value.isascii() and value.isprintable() else 16
        return value if len(value) <= longest else f"{value[:longest]}…"
    if isinstance(value, dict):
        return {_shortened(key): _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, (list, tuple)) else value


def describe(info: DatasetInfo) -> str:
    """A dataset in a few lines."""
    from featuregen.synthesis.kinds import meaning_of

    base, source = info.base, info.source_model
    weights = f"{source.get('architecture')}, weights {str(source.get('weights_sha256'))[:12]}"
    success = f"{info.success_rate:.1%} of rows are classified by the source as the label they carry"
    shard, part = info.recipe.get("shard"), ""
    if isinstance(shard, dict):
        part = f" (shard {shard.get('number')} of {shard.get('of')}, {shard.get('rows')} rows in all)"
    channels, height, width = info.image_shape
    return join_lines([
        f"{info.kind}: {meaning_of(info.kind) or 'unknown kind'}",
        f"  rows     {info.rows}{part} of {base.get('name')}, {channels}×{height}×{width} {info.dtype}, "
        f"{len(info.classes)} classes, {info.size / 2**20:.1f} MiB",
        f"  made     {_describe_recipe(info.recipe)}",
        f"  source   {weights if source else 'not recorded'}",
        f"  success  {'not recorded' if math.isnan(info.success_rate) else success}",
        f"  content  {info.content_sha256}",
    ])  # fmt: skip


def _describe_recipe(recipe: Mapping[str, Any]) -> str:
    """How a dataset was made, in words; the recipe of a file of unknown origin may have any content."""
    from featuregen.report.attack import describe_attack

    if "imported" in recipe:
        return "elsewhere, imported from the authors' layout"
    try:
        if "attack" in recipe:
            # One without a name is no attack of featuregen's.
            attack = {"name": recipe["attack"]["name"], **recipe["attack"]}
            return f"{describe_attack(attack)}, seed {recipe.get('seed')}"
        steps = recipe.get("synthesis", {})
        ball = "" if steps.get("norm", "none") == "none" else f", {steps['norm']} eps {steps['eps']:g}"
        return (
            f"{steps.get('steps')} steps of {steps.get('step_size')} ({steps.get('schedule')}){ball}, "
            f"seed {recipe.get('seed')}"
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return "by a recipe that featuregen does not know"
