"""Which class a label flips to under attack: of one model under one attack, or of several compared in a record."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featuregen.attacks.api import attack as run_attack
from featuregen.attacks.registry import find_attack
from featuregen.config.loader import from_dict
from featuregen.config.schema import Norm
from featuregen.config.serialize import json_document, shown_name, to_dict
from featuregen.errors import UserError, printable
from featuregen.evaluation.accuracy import predict
from featuregen.evaluation.attack_run import AttackInputs
from featuregen.evaluation.label_flip_statistics import LabelFlips, agreement, asymmetry, attraction
from featuregen.models.io import TrainedModel, weights_sha256
from featuregen.runtime.atomic import atomic_write, check_writable
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, versions

# The mark by which runtime.marks knows the file.
CSV_HEADER = ("model", "attack", "eps", "true", "predicted", "count")


def label_flips(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: str = "pgd",
    *,
    seed: int = 0,
    batch_size: int = 256,
    compute: ComputeSpec | None = None,
    **settings: Any,
) -> LabelFlips:
    """Attack the images that a model classifies correctly, and record which class each is classified as afterwards.

    Args:
        model: Any network in eval mode that maps images to logits.
        images: float32 (N, C, H, W) in [0, 1].
        labels: The class of each image, int64 (N,).
        attack: The name of an attack; `featuregen attacks` lists them.
        seed: Seeds the attack.
        batch_size: Images per pass.
        compute: Device and arithmetic of the attack; fp32 on the images' device where left out.
        **settings: Settings of the attack, such as `norm`, `eps` and `steps`.

    Returns:
        The predictions before and after; `.matrix` counts the flips from each class to each other.

    Example:
        >>> import torch
        >>> import featuregen as fg
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
        >>> images = fg.load_images("digits").test.images_tensor()[:20]
        >>> flips = fg.label_flips(model, images, model(images).argmax(1), "fgsm", norm="linf", eps=0.5)
        >>> flips.matrix.shape, int(flips.attacked.sum()), bool(flips.flipped.any())
        ((10, 10), 20, True)
    """
    before = predict(model, images, batch_size)
    after, correct = before.clone(), (before == labels).nonzero().flatten()
    if len(correct):
        after[correct] = run_attack(
            model, images[correct], labels[correct], attack,
            seed=seed, batch_size=batch_size, compute=compute, **settings,
        ).after  # fmt: skip
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    true, first, last = (each.cpu().numpy().astype(np.int64) for each in (labels, before, after))
    return LabelFlips(true, first, last, classes)


@dataclass(frozen=True)
class AttackSpec:
    """An attack by its name with all its settings; `eps` and `norm` are None where it has none."""

    attack: str
    eps: float | None
    norm: Norm | None
    settings: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        return {"attack": self.attack, "eps": self.eps, "norm": self.norm}


def expand_grid(
    names: Sequence[str], radii: Sequence[Any], norm: Norm, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[AttackSpec]:
    """Every attack at every radius, one that takes no radius once; `options` are further settings by attack."""
    by_attack = options or {}
    if unused := [name for name in by_attack if name not in names]:
        raise UserError(f"settings are given for the attack '{unused[0]}', which is not run; run it, or drop them.")
    specs: list[AttackSpec] = []
    for name in names:
        info = find_attack(name, norm)
        accepted = {field.name for field in fields(info.settings)}
        if "eps" in accepted and not radii:
            raise UserError(f"attack {name} needs a radius; give at least one eps, such as 0.1 or 8/255.")
        for eps in radii if "eps" in accepted else [None]:
            ball = {key: value for key, value in (("norm", norm), ("eps", eps)) if key in accepted}
            settings: Any = from_dict(info.settings, {**ball, **by_attack.get(name, {})}, f"attack {info.name}")
            spec = _spec(info.name, settings)
            if any((spec.attack, spec.eps) == (other.attack, other.eps) for other in specs):
                at = "" if spec.eps is None else f" at eps {spec.eps:g}"
                raise UserError(f"attack {name}{at} is given twice; name it once.")
            specs.append(spec)
    return specs


def _spec(name: str, settings: Any) -> AttackSpec:
    eps, norm = getattr(settings, "eps", None), getattr(settings, "norm", None)
    if eps == 0:
        raise UserError(f"attack {name} with eps 0 changes nothing; give a positive radius.")
    if eps is not None and eps >= 1 and norm == "linf":
        raise UserError(
            f"attack {name} with Linf eps {eps:g} reaches every image; give a radius below 1, such as 8/255."
        )
    return AttackSpec(name, eps, norm, to_dict(settings))


# Recording -----------------------------------------------------------------------------------------

# Flips by the model's title and the attack's place in the list.
Measured = Mapping[tuple[str, int], LabelFlips]


def label_flips_to_folder(
    folder: Path,
    models: Sequence[TrainedModel],
    inputs: AttackInputs,
    attacks: Sequence[AttackSpec],
    *,
    base: Mapping[str, Any],
    seed: int,
    batch_size: int,
    compute: ComputeSpec,
) -> dict[str, Any]:
    """Run every attack on every model, always in fp32; write flips.json and flips.csv, and return the record.

    `base` is what the record says of the base set.
    """
    check_writable(folder)
    titles = titles_of_files([trained.path for trained in models])
    measured: dict[tuple[str, int], LabelFlips] = {}
    for title, trained in zip(titles, models, strict=True):
        for number, spec in enumerate(attacks):
            log(f"flipping {title}: {spec.attack}{'' if spec.eps is None else f', eps {spec.eps:g}'}")
            measured[title, number] = label_flips(
                trained.model, inputs.images, inputs.labels, spec.attack, seed=seed, batch_size=batch_size,
                compute=replace(compute, precision="fp32"), **spec.settings,
            )  # fmt: skip
    record = {
        "format": "featuregen-flips",
        "version": 1,
        "base": base,
        "images": len(inputs.index),
        "seed": seed,
        "software": versions(compute),
        "models": [_describe_model(title, trained) for title, trained in zip(titles, models, strict=True)],
        "runs": [_describe_run(title, attacks[number], flips, seed) for (title, number), flips in measured.items()],
        "agreement": {
            "attacks": _between_attacks(titles, attacks, measured, seed),
            "models": _between_models(titles, attacks, measured, seed),
        },
    }
    atomic_write(folder / "flips.json", json_document(record))
    atomic_write(folder / "flips.csv", flips_csv(record))
    return record


def titles_of_files(paths: Sequence[Path]) -> list[str]:
    """The names of the models, numbered where they alone would not tell models apart."""
    names = [shown_name(path.stem) for path in paths]
    return names if len(set(names)) == len(names) else [f"{name}-{i}" for i, name in enumerate(names, 1)]


def _describe_model(title: str, trained: TrainedModel) -> dict[str, Any]:
    model = trained.model
    return {
        "title": title,
        "file": shown_name(trained.path),
        "architecture": model.architecture,
        "width": model.width,
        "weights_sha256": weights_sha256(model),
    }


def _describe_run(title: str, spec: AttackSpec, flips: LabelFlips, seed: int) -> dict[str, Any]:
    attacked, flipped = int(flips.attacked.sum()), int(flips.flipped.sum())
    return {
        "model": title,
        **spec.record,
        "settings": dict(spec.settings),
        "attacked": attacked,
        "flipped": flipped,
        "success": flipped / attacked if attacked else None,
        "matrix": flips.matrix.tolist(),
        "asymmetry": asdict(asymmetry(flips.matrix, flips.attacked_per_class, seed)),
        "attraction": asdict(attraction(flips.matrix, seed)),
    }


def _between_attacks(
    titles: Sequence[str], attacks: Sequence[AttackSpec], measured: Measured, seed: int
) -> list[dict[str, Any]]:
    """Pairs of attacks in the same ball; one without a ball is paired with every other."""
    pairs = []
    for title, (one, other) in itertools.product(titles, itertools.combinations(range(len(attacks)), 2)):
        first, second = attacks[one], attacks[other]
        same_ball = (first.eps, first.norm) == (second.eps, second.norm) or None in (first.eps, second.eps)
        if first.attack != second.attack and same_ball:
            pair = {"model": title, "first": first.record, "second": second.record}
            pairs.append(pair | asdict(agreement(measured[title, one], measured[title, other], seed)))
    return pairs


def _between_models(
    titles: Sequence[str], attacks: Sequence[AttackSpec], measured: Measured, seed: int
) -> list[dict[str, Any]]:
    pairs = []
    for number, (one, other) in itertools.product(range(len(attacks)), itertools.combinations(titles, 2)):
        pair = {**attacks[number].record, "first": one, "second": other}
        pairs.append(pair | asdict(agreement(measured[one, number], measured[other, number], seed)))
    return pairs


def flips_csv(record: Mapping[str, Any]) -> str:
    """One line for each pair of classes of each run; `eps` is empty where an attack takes none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_HEADER)
    names = [printable(name, limit=None) for name in record["base"]["classes"]]
    for run in record["runs"]:
        matrix = np.array(run["matrix"])
        eps = "" if run["eps"] is None else repr(run["eps"])
        for true, predicted in itertools.permutations(range(len(names)), 2):
            table.writerow([run["model"], run["attack"], eps, names[true], names[predicted], matrix[true, predicted]])
    return text.getvalue()
