"""`featuregen reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featuregen.cli.options import (
    OUT,
    ConfigOption,
    DataOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    RecipeOption,
    SeedOption,
    SetOption,
    common_values,
    load_settings,
)
from featuregen.config.recipes import NamedRecipe
from featuregen.errors import join_lines
from featuregen.runtime.console import log, show, show_json
from featuregen.runtime.paths import check_output_folder


def reproduce(
    config: ConfigOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    seeds: Annotated[int | None, typer.Option(help="Models per row of the table.")] = None,
    standard_from: Annotated[
        Path | None, typer.Option(help="A saved model, or a checkpoint of robustness, as the standard source model.")
    ] = None,
    robust_from: Annotated[Path | None, typer.Option(help="Likewise as the robust source model.")] = None,
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
    """Run the whole experiment: source models, datasets, fresh models on each, a table of accuracies, a report.

    An interrupted run resumes when you rerun the command.

        featuregen reproduce

        featuregen reproduce --seeds 5 --out runs/five

        featuregen reproduce --config my.yaml --data mine.npz

        featuregen reproduce --config cifar10-paper --dry-run

        featuregen reproduce --config cifar10-fast --robust-from cifar_l2_0_5.pt
    """
    values = common_values(model, seed, device, precision) | {"evaluation.seeds": seeds}
    values |= {
        f"sources.{name}_from": path and str(path)
        for name, path in (("standard", standard_from), ("robust", robust_from))
    }
    settings = load_settings(config, data, set_, values, NamedRecipe(named, training=True) if named else None)
    from featuregen.experiment.cost import cost_of, estimate_cost
    from featuregen.experiment.experiment import Experiment
    from featuregen.report.cost import cost_sentence, cost_table

    if dry_run:
        cost = estimate_cost(settings, out).to_dict()
        if json_:
            show_json(cost)
        else:
            show(cost_table(cost))
        return
    from featuregen.experiment.outputs import check_results_free, write_results
    from featuregen.experiment.reproduce import reproduce as run
    from featuregen.report.results import results_table

    check_output_folder(out)
    experiment = Experiment(settings, out)
    base = experiment.base
    cost = cost_of(settings, base.size, experiment.compute).to_dict()
    log(f"note: {cost_sentence(cost)}")
    # The same recipes on another base set are another experiment.
    folder = out / (f"{settings.name}-{base.name}" if data and base.name not in settings.name else settings.name)
    check_results_free(folder, force)
    results = run(experiment, folder, force)
    page = write_results(experiment, results, folder, force)
    if json_:
        show_json(results)
    else:
        show(results_table(results))
    show(join_lines([f"report: {page}"]), beside_results=json_)
