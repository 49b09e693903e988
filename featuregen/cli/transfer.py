"""`featuregen transfer`."""

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
    PrecisionOption,
    SeedOption,
    SetOption,
    common_values,
    load_settings,
)
from featuregen.config.loader import from_dict
from featuregen.config.schema import PGD, Model, Norm
from featuregen.config.serialize import json_document
from featuregen.errors import UserError
from featuregen.runtime.console import show, show_json, show_paths
from featuregen.runtime.paths import check_output_folder


def transfer(
    models: Annotated[
        str, typer.Option(help="Architectures, each with an optional width after a colon: resnet9:8,vgg16.")
    ],
    config: ConfigOption = None,
    data: DataOption = None,
    norm: Annotated[Norm, typer.Option(help="Norm of the attack.")] = "l2",
    eps: Annotated[float | None, typer.Option(help="Radius of the attack. Default: the config's headline.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the attack.")] = 20,
    seeds: Annotated[int | None, typer.Option(help="Fresh models per architecture.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for models, datasets and the picture.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """Figure 3 of the paper: do networks to which attacks transfer also learn better from the source's D_det?

    Attacks the config's standard model on test images. For each architecture, measures the transfer rate: the share of
    the successful adversarial images that also fool a standard model of it. Then trains fresh models of it on D_det.

        featuregen transfer --models convnet:8,convnet:24,convnet:48

        featuregen transfer --config cifar10-cpu --models resnet9:16,resnet9:8
    """
    values = common_values(None, seed, device, precision) | {"evaluation.seeds": seeds}
    settings = load_settings(config, data, set_, values)
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.transfer import transfer as run
    from featuregen.models.registry import find_architecture
    from featuregen.report.transfer import transfer_scatter, transfer_table
    from featuregen.runtime.atomic import atomic_write
    from featuregen.runtime.marks import check_replaceable

    if "det" not in settings.synthesis:
        raise UserError(f"config '{settings.name}' has no recipe for det, which transfer trains on; add synthesis.det.")
    networks = []
    for text in models.split(","):
        name, _, width = text.strip().partition(":")
        tree = {"architecture": find_architecture(name).name, "width": width or 0}
        networks.append(from_dict(Model, tree, f"--models {text.strip()}"))
    radius = settings.evaluation.headline if eps is None else eps
    attack = from_dict(PGD, {"norm": norm, "eps": radius, "steps": steps}, "--eps and --steps")
    check_output_folder(out)
    files = (out / "transfer.json", out / "transfer.png")
    check_replaceable(*files, force=force)
    results = run(Experiment(settings, out), networks, attack, out, force)
    check_replaceable(*files, force=force)
    atomic_write(files[0], json_document(results))
    picture = transfer_scatter(results, files[1])
    if json_:
        show_json(results)
    else:
        show(transfer_table(results))
    show_paths([picture], beside_results=json_)
