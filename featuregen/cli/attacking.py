"""Commands that attack a model."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DeviceOption,
    DtypeName,
    EpsOption,
    ForceOption,
    JsonOption,
    NormOption,
    OutOption,
    PrecisionOption,
    SeedOption,
    check_ending,
    common,
    given,
)
from featuregen.errors import UserError


class PartName(StrEnum):
    test = "test"
    train = "train"


def attack(
    model: Annotated[Path, typer.Argument(help="A saved model, or a checkpoint of robustness.")],
    name: Annotated[str, typer.Option("--attack", help="Which one; `featuregen attacks` lists them.")],
    norm: NormOption = None,
    eps: EpsOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the attack, as key=value; may be repeated.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="A class to reach, by name or number, or next. Default: any but an image's own.")
    ] = "",
    origin: Annotated[
        Path | None, typer.Option("--from", help="Find the images on this model instead, and show them to MODEL.")
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None, typer.Option(help="An image set, a Keras-style .npz, or a dataset (.h5). Default: the model's own.")
    ] = None,
    part: Annotated[PartName, typer.Option(help="Which images of an image set.")] = PartName.test,
    rows: Annotated[
        int | None, typer.Option(help="A class-balanced sample of this many; 0 means all. Default: at most 1,000.")
    ] = None,
    out: OutOption = None,
    dtype: Annotated[DtypeName, typer.Option(help="How pixels are stored.")] = DtypeName.float32,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Attack a model: success, sizes of the changes, confidences, the images as HDF5, and a picture.

    featuregen attack robust.safetensors --attack pgd --norm linf --eps 8/255

    featuregen attack m.safetensors --attack pixels --set pixels=3 --rows 100

    featuregen attack m.safetensors --attack smallest --norm l2 --target next

    featuregen attack m.safetensors --attack fgsm --eps 0.1 --from other.safetensors
    """
    check_ending(out, ".h5", "a dataset")
    from featuregen.attacks import settings_for
    from featuregen.config import load_config, with_overrides
    from featuregen.pipeline import (
        Workshop,
        attack_model,
        draw_attack,
        recorded_config,
        save_attacked,
        victims_in,
        victims_of,
    )
    from featuregen.report import attack_text

    options = _options(set_ or []) | given({"norm": norm and norm.value, "eps": eps})
    settings_for(name, options)
    file = Path(data) if data and data.endswith(".h5") else None
    values = common(None, seed, device, precision) | ({} if file else {"data.name": data})
    settings = with_overrides(load_config(config) if config else recorded_config(model), (), given(values))
    shop = Workshop(settings, out.parent if out else OUT)
    aim = shop.load_source(model)
    maker = shop.load_source(origin) if origin else None
    victims = victims_in(shop, file, rows) if file else victims_of(shop, part.value, rows)
    path = out or OUT / f"{file.stem if file else shop.base.name}-{name}.h5"
    made = attack_model(shop, aim, victims, name, options, wanted=target, origin=maker)
    save_attacked(shop, made, path, dtype.value, force)
    picture = draw_attack(made, path.with_suffix(".png"))
    print(json.dumps({**made.results, "file": str(path)}, indent=2) if json_ else attack_text(made.results))
    print(f"{path}\n{picture}", file=sys.stderr if json_ else sys.stdout)


def attacks() -> None:
    """List the attacks: what each may know of the model, its settings, and what it does.

    featuregen attacks
    """
    from featuregen.attacks import attack_table

    print(attack_table())


def _options(texts: list[str]) -> dict[str, Any]:
    """From texts such as `steps=40`; what they mean is for the attack to say."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UserError(f"--set {text} is no setting; write it as key=value, such as steps=40.")
        if name in found:
            raise UserError(f"--set {name} is given twice; keep one of {found[name]} and {value}.")
        found[name] = value
    return found
