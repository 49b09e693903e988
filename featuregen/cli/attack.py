"""`featuregen attack`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DeviceOption,
    EpsOption,
    ForceOption,
    JsonOption,
    NormOption,
    PrecisionOption,
    SeedOption,
    check_output,
    common_values,
    drop_none,
    output_folder,
)
from featuregen.config.loader import load_config, unique_assignments
from featuregen.config.schema import Dtype
from featuregen.config.serialize import to_record
from featuregen.errors import CheckFailed, UserError
from featuregen.runtime.console import show, show_json, show_paths

if TYPE_CHECKING:
    from featuregen.evaluation.attack_run import AttackInputs, AttackRunResult
    from featuregen.experiment.experiment import Experiment
    from featuregen.models.io import TrainedModel


def attack(
    model: Annotated[Path, typer.Argument(help="A saved model, or a checkpoint of robustness.")],
    name: Annotated[str | None, typer.Option("--attack", help="An attack; `featuregen attacks` lists them.")] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Check for gradient masking instead; exit code 1 if a check fails.")
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
        str, typer.Option(help="The target class by name or number, or next. Default: any but the true class.")
    ] = "",
    origin: Annotated[
        Path | None, typer.Option("--from", help="Transfer: find the images on this model and test them on MODEL.")
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None, typer.Option(help="A base set by name or path, or a dataset (.h5). Default: the model's base set.")
    ] = None,
    part: Annotated[
        Literal["test", "train"] | None, typer.Option(help="Which split of a base set. Default: test.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="A class-balanced sample of this many; 0 means all. Default: at most 1,000.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HDF5 file to write, or the JSON file of --sanity.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="How pixels are stored. Default: float32.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Attack a model: success rate, perturbation sizes, confidences, the images as HDF5, and a picture.

    With --sanity, check the model for gradient masking, which makes it look more robust than it is. Its signs: one step
    beats many; a black-box attack (by queries, or --from another model) beats the white-box attack; some images resist
    an unlimited perturbation; more steps still help; random noise succeeds; the loss has a zero gradient; predictions
    are not deterministic.

    featuregen attack robust.safetensors --attack pgd --norm linf --eps 8/255

    featuregen attack m.safetensors --attack pixels --set pixels=3 --rows 100

    featuregen attack m.safetensors --attack smallest --norm l2 --target next

    featuregen attack m.safetensors --attack fgsm --from other.safetensors

    featuregen attack m.safetensors --sanity --eps 8/255 --from other.safetensors
    """
    without_sanity = {
        "--attack": name, "--target": target, "--dtype": dtype, "--precision": precision, "--force": force,
    }  # fmt: skip
    _check_options(sanity, without_sanity, out)
    options = unique_assignments(set_ or [], "--set", "key", "steps=40") | drop_none({"norm": norm, "eps": eps})
    from featuregen.attacks.registry import settings_for
    from featuregen.data.on_disk import is_image_file
    from featuregen.evaluation.attack_run import AttackRun, attack_to_file, inputs_from_file, inputs_from_split
    from featuregen.evaluation.gradient_masking import masking_settings
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.files import config_for
    from featuregen.runtime.marks import check_replaceable

    # Refused before anything is loaded.
    settings_for(name, options) if name else masking_settings(options)
    file = Path(data) if data and data.endswith(".h5") and not is_image_file(Path(data)) else None
    if file and part:
        raise UserError(f"--part {part} is for a base set; {file} is a dataset, and all of it is attacked.")
    values = common_values(None, seed, device, precision) | ({} if file else {"data.name": data})
    settings = config_for(model, load_config(config) if config else None, values=drop_none(values))
    experiment = Experiment(settings, output_folder(out))
    victim = experiment.load_model(model)
    surrogate = experiment.load_model(origin) if origin else None
    inputs = (
        inputs_from_file(file, experiment.base, rows, settings.seed, experiment.device)
        if file
        else inputs_from_split(experiment.base, part or "test", rows, settings.seed, experiment.device)
    )
    if sanity or name is None:
        path = out or OUT / f"{model.stem}-sanity.json"
        check_replaceable(path, path.with_suffix(".png"), remedy="or choose another --out")
        _check_gradient_masking(experiment, victim, inputs, options, surrogate, path, json_)
        return
    from featuregen.report.attack import attack_text
    from featuregen.report.image_grid import check_can_be_drawn

    check_can_be_drawn(inputs.images.shape[1:], file or experiment.base.name)
    path = out or OUT / f"{file.stem if file else experiment.base.name}-{name}.h5"
    check_replaceable(path.with_suffix(".png"), force=force)
    run = AttackRun(victim, inputs, name, options, target, surrogate, dtype or "float32")
    result = attack_to_file(
        path, run, seed=settings.seed, batch_size=settings.evaluation.batch_size, compute=experiment.compute,
        config=to_record(settings), force=force,
    )  # fmt: skip
    check_replaceable(path.with_suffix(".png"), force=force)
    picture = _draw_attack(result, path.with_suffix(".png"))
    _print_results(result.record, attack_text(result.record), [path, picture], json_)


def _draw_attack(result: AttackRunResult, picture: Path) -> Path:
    """Draw a few images before and after the attack, with the predicted classes and confidences."""
    from featuregen.report.attack import attack_picture, describe_attack

    inputs, outcome, rows = result.run.inputs, result.outcome, result.example_rows()
    before, after = (images[rows].cpu().numpy() for images in (inputs.images, outcome.images))
    first, last = (
        [(inputs.classes[int(classes[row])], float(confidence[row])) for row in rows]
        for classes, confidence in (
            (outcome.before, outcome.confidence_before),
            (outcome.after, outcome.confidence_after),
        )
    )
    return attack_picture(picture, before, after, first, last, describe_attack(result.run.record))


def _check_gradient_masking(
    experiment: Experiment,
    victim: TrainedModel,
    inputs: AttackInputs,
    options: dict[str, Any],
    surrogate: TrainedModel | None,
    path: Path,
    json_: bool,
) -> None:
    from featuregen.evaluation.gradient_masking import gradient_masking_to_file
    from featuregen.report.gradient_masking import masking_bars, masking_text

    config = experiment.config
    record = gradient_masking_to_file(
        path, victim, inputs, options, surrogate,
        seed=config.seed, batch_size=config.evaluation.batch_size, compute=experiment.compute,
    )  # fmt: skip
    _print_results(record, masking_text(record), [path, masking_bars(path.with_suffix(".png"), record)], json_)
    if flagged := [check["name"] for check in record["checks"] if not check["ok"]]:
        raise CheckFailed(f"{victim.path}: gradients look masked, by the checks: {', '.join(flagged)}")


def _print_results(results: dict[str, Any], text: str, files: Sequence[Path], json_: bool) -> None:
    if json_:
        show_json({**results, "file": str(files[0])})
    else:
        show(text)
    show_paths(files, beside_results=json_)


def _check_options(sanity: bool, without_sanity: dict[str, Any], out: Path | None) -> None:
    """Require either an attack or --sanity, and refuse options that would have no effect."""
    if not sanity and not without_sanity["--attack"]:
        raise UserError("there is nothing to do: name an attack with --attack, such as pgd, or ask for --sanity.")
    if sanity and (unused := [option for option, value in without_sanity.items() if value]):
        raise UserError(f"--sanity chooses its attacks itself and takes no {unused[0]}; leave out one of the two.")
    check_output(out, *((".json", "a record") if sanity else (".h5", "a dataset")))
