"""Commands that attack a model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    PrecisionOption,
    SeedOption,
    check_ending,
    common,
    given,
)
from featuregen.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from featuregen.experiment import AttackInputs, AttackRun, Experiment, TrainedModel


class PartName(StrEnum):
    test = "test"
    train = "train"


def attack(
    model: Annotated[Path, typer.Argument(help="A saved model, or a checkpoint of robustness.")],
    name: Annotated[str | None, typer.Option("--attack", help="Which one; `featuregen attacks` lists them.")] = None,
    sanity: Annotated[
        bool,
        typer.Option("--sanity", help="Instead, check whether gradients are masked; exit code 1 if so."),
    ] = False,
    norm: NormOption = None,
    eps: EpsOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting of the attack, as key=value; may be repeated. Of --sanity: steps, queries."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="A class to reach, by name or number, or next. Default: any but an image's own.")
    ] = "",
    origin: Annotated[
        Path | None, typer.Option("--from", help="Find the images on this model instead, and show them to MODEL.")
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None, typer.Option(help="An image set by name or path, or a dataset (.h5). Default: the model's own.")
    ] = None,
    part: Annotated[PartName | None, typer.Option(help="Which images of an image set. Default: test.")] = None,
    rows: Annotated[
        int | None, typer.Option(help="A class-balanced sample of this many; 0 means all. Default: at most 1,000.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HDF5 file to write, or the JSON file of --sanity.")] = None,
    dtype: Annotated[DtypeName | None, typer.Option(help="How pixels are stored. Default: float32.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Attack a model: success, sizes of the changes, confidences, the images as HDF5, and a picture.

    With --sanity, find out whether its gradients are masked, which makes it look more robust than it is: one step that
    beats many, a black box (by queries, or --from another model) that beats the white one, images that survive without
    a limit, more effort that still helps, random noise, no slope, answers that change.

    featuregen attack robust.safetensors --attack pgd --norm linf --eps 8/255

    featuregen attack m.safetensors --attack pixels --set pixels=3 --rows 100

    featuregen attack m.safetensors --attack smallest --norm l2 --target next

    featuregen attack m.safetensors --attack fgsm --from other.safetensors

    featuregen attack m.safetensors --sanity --eps 8/255 --from other.safetensors
    """
    alone = {"--attack": name, "--target": target, "--dtype": dtype, "--precision": precision, "--force": force}
    _check_choice(sanity, alone, out)
    from featuregen.attacks import settings_for
    from featuregen.config import load_config, with_overrides
    from featuregen.data import is_image_file
    from featuregen.evaluation import masking_settings
    from featuregen.experiment import AttackRun, Experiment, inputs_from_file, inputs_from_split, recorded_config

    options = _options(set_ or []) | given({"norm": norm and norm.value, "eps": eps})
    settings_for(name, options) if name else masking_settings(options)
    file = Path(data) if data and data.endswith(".h5") and not is_image_file(Path(data)) else None
    if file and part:
        raise UserError(f"--part {part} is for an image set; {file} is a dataset, and all of it is attacked.")
    values = common(None, seed, device, precision) | ({} if file else {"data.name": data})
    settings = with_overrides(load_config(config) if config else recorded_config(model), (), given(values))
    experiment = Experiment(settings, out.parent if out else OUT)
    aim = experiment.load_model(model)
    maker = experiment.load_model(origin) if origin else None
    inputs = (
        inputs_from_file(experiment, file, rows)
        if file
        else inputs_from_split(experiment, (part or PartName.test).value, rows)
    )
    if name:
        path = out or OUT / f"{file.stem if file else experiment.base.name}-{name}.h5"
        stored = (dtype or DtypeName.float32).value
        told = _attacked(experiment, AttackRun(aim, inputs, name, options, target, maker, stored), path, force)
    else:
        told = _doubted(experiment, aim, inputs, options, maker, out or OUT / f"{model.stem}-sanity.json")
    print(json.dumps({**told.results, "file": str(told.files[0])}, indent=2) if json_ else told.text)
    print(*told.files, sep="\n", file=sys.stderr if json_ else sys.stdout)
    if told.failed:
        raise CheckFailed(told.failed)


@dataclass(frozen=True)
class _Told:
    """What a command prints, the files it leaves, and which checks failed."""

    results: dict[str, Any]
    text: str
    files: list[Path]
    failed: str = ""


def _attacked(experiment: Experiment, attempt: AttackRun, path: Path, force: bool) -> _Told:
    from featuregen.experiment import attack_to_file, draw_attack
    from featuregen.report import attack_text

    made = attack_to_file(path, experiment, attempt, force)
    return _Told(made.results, attack_text(made.results), [path, draw_attack(made, path.with_suffix(".png"))])


def _doubted(
    experiment: Experiment,
    aim: TrainedModel,
    inputs: AttackInputs,
    options: dict[str, Any],
    other: TrainedModel | None,
    path: Path,
) -> _Told:
    from featuregen.experiment import doubt_model, write_doubts
    from featuregen.report import masking_text

    results = doubt_model(experiment, aim, inputs, options, other)
    flagged = ", ".join(check["name"] for check in results["checks"] if not check["ok"])
    failed = f"{aim.path}: gradients look masked, by the checks: {flagged}" if flagged else ""
    return _Told(results, masking_text(results), write_doubts(results, path), failed)


def _check_choice(sanity: bool, alone: dict[str, Any], out: Path | None) -> None:
    """Either one attack or all the checks, and no option that would do nothing."""
    if not sanity and not alone["--attack"]:
        raise UserError("there is nothing to do: name an attack with --attack, such as pgd, or ask for --sanity.")
    if sanity and (useless := [option for option, value in alone.items() if value]):
        raise UserError(f"--sanity runs attacks of its own and takes no {useless[0]}; leave one of the two out.")
    check_ending(out, *((".json", "a record") if sanity else (".h5", "a dataset")))


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
