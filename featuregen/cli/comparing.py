"""Commands that hold several networks against each other."""

from __future__ import annotations

import json
import sys
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
    NormName,
    PrecisionOption,
    SeedOption,
    SetOption,
    common,
    settings_of,
)
from featuregen.errors import UserError


def transfer(
    models: Annotated[
        str, typer.Option(help="Architectures, with a width after a colon where one is wanted: resnet9:8,vgg16.")
    ],
    config: ConfigOption = None,
    data: DataOption = None,
    norm: Annotated[NormName, typer.Option(help="The attack's norm.")] = NormName.l2,
    eps: Annotated[float | None, typer.Option(help="The attack's radius. Default: the config's headline.")] = None,
    steps: Annotated[int, typer.Option(help="The attack's steps.")] = 20,
    seeds: Annotated[int | None, typer.Option(help="Fresh models per architecture.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for models, datasets and the picture.")] = OUT,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_: JsonOption = False,
    force: ForceOption = False,
    set_: SetOption = None,
) -> None:
    """The paper's figure 3: do networks that fall with the source also learn from its D_det?

    Attacks the config's standard model on test images; for each architecture, counts how many of the images that
    fooled the source fool a standard model of it too, and trains fresh models of it on the source's D_det alone.

        featuregen transfer --models convnet:8,convnet:24,convnet:48

        featuregen transfer --config cifar10-cpu --models resnet9:16,resnet9:8
    """
    values = common(None, seed, device, precision) | {"evaluation.seeds": seeds}
    settings = settings_of(config, data, set_, values)
    from featuregen.config import PGD, Model, from_dict
    from featuregen.experiment import Experiment
    from featuregen.experiment import transfer as run
    from featuregen.models import find_architecture
    from featuregen.report import transfer_scatter, transfer_table
    from featuregen.runtime import atomic_write

    if "det" not in settings.synthesis:
        raise UserError(f"config '{settings.name}' has no recipe for det, which transfer trains on; add synthesis.det.")
    nets = []
    for text in models.split(","):
        name, _, width = text.strip().partition(":")
        tree = {"architecture": find_architecture(name).name, "width": width or 0}
        nets.append(from_dict(Model, tree, f"--models {text.strip()}"))
    radius = settings.evaluation.headline if eps is None else eps
    attack = from_dict(PGD, {"norm": norm.value, "eps": radius, "steps": steps}, "--eps and --steps")
    experiment = Experiment(settings, out)
    results = run(experiment, nets, attack, out, force)
    atomic_write(out / "transfer.json", json.dumps(results, indent=1))
    picture = transfer_scatter(results, out / "transfer.png")
    print(json.dumps(results, indent=2) if json_ else transfer_table(results))
    print(picture, file=sys.stderr if json_ else sys.stdout)
