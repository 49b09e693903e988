"""What models learn from the paper's recipes and from the fast ones, which take fewer steps.

    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.fewer_steps [--config digits] [--data digits] [--set section.key=value]... [--seeds 5]

Claim: models trained on sets of the recipe `fast` (60 steps for features, 30 for classes) are as accurate, clean and
attacked, as models trained on sets of the recipe `paper` (1000 and 100 steps), within the spread of their seeds. The
same holds for a model trained adversarially with 3 steps of 5/12 eps instead of the paper's 7 steps of eps/5.
Method: sources, targets, starts and balls are the same for both. One set per recipe, `--seeds` models on each;
accuracies in % on the test images, mean (smallest-largest). `reached` is the mean relative feature distance of a set,
or the share of rows that the source classifies as the stored label. Seconds are those of making the set once (none if
it was in `--folder` already), or of training one model, on the hardware printed first.
Needs: nothing but the config's base set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.scoreboard import processor
from featuregen import __version__
from featuregen.config.kinds import KINDS
from featuregen.config.loader import did_you_mean, load_config, with_overrides
from featuregen.config.recipes import RECIPES, attack_values, recipe_values
from featuregen.config.schema import Config
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.models.io import TrainedModel
from featuregen.storage.reader import read_columns


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="digits")
    parser.add_argument("--data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both recipes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("datasets_out/fewer_steps"))
    parser.add_argument("--sets-only", action="store_true", help="leave out adversarial training")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    try:
        record = compare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    kinds = options.kinds.split(",")
    # All of them, so that a mistake is told before anything is computed.
    shops = {(recipe, kind): _experiment(options, recipe, kind) for kind in kinds for recipe in RECIPES}
    place = {"processor": processor(), "torch": torch.__version__, "featuregen": __version__}
    record: dict[str, Any] = {"hardware": place, "config": options.config, "set": options.set, "rows": []}
    headline = f"l2 {next(iter(shops.values())).config.evaluation.headline:g}"
    print(", ".join(place.values()))
    print(f"{'':26} {'steps':>5} {'reached':>8} {'seconds':>8}   accuracy: clean, then attacked")
    for row in _rows(options, shops):
        record["rows"].append(row)
        scores = "; ".join(f"{name} {_spread(row['accuracy'][name])}" for name in ("clean", headline))
        reached, seconds = (
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in ((row["reached"], 3), (row["seconds"], 1))
        )
        print(f"{row['what']:20} {row['recipe']:5} {row['steps']:5} {reached:>8} {seconds:>8}   {scores}", flush=True)
    return record


def _rows(options: argparse.Namespace, shops: dict[tuple[str, str], Experiment]) -> Iterator[dict[str, Any]]:
    for (recipe, kind), experiment in shops.items():
        path = options.folder / f"{kind}-{recipe}.h5"
        experiment.source_model(KINDS[kind].source)
        found, started = path.exists(), time.perf_counter()
        data = experiment.make_dataset(kind, path)
        seconds = None if found else time.perf_counter() - started
        features = KINDS[kind].objective == "features"
        reached = float(read_columns(path, ["objective"])["objective"].mean()) if features else data.info.success_rate
        models = experiment.train_fresh(data, options.seeds, title=f"{kind} {recipe}")
        known = {"what": kind, "recipe": recipe, "steps": experiment.synthesis_recipe(kind).steps, "reached": reached}
        yield known | {"seconds": seconds, "accuracy": _accuracies(models)}
    for recipe in () if options.sets_only else RECIPES:
        config = _config(options)
        eps = config.sources.robust.attack.eps if config.sources.robust.attack else 0.0
        experiment = Experiment(with_overrides(config, values=attack_values(recipe, eps)), options.folder)
        training, seed = experiment.config.sources.robust, experiment.config.seed
        assert training.attack is not None
        seeds = list(range(seed, seed + options.seeds))
        models = experiment.models.get_or_train(
            experiment.train_set, training, seeds, f"adversarially, recipe {recipe}"
        )
        seconds = statistics.mean(model.record["seconds"]["training"] for model in models)
        known = {"what": "adversarial training", "recipe": recipe, "steps": training.attack.steps, "reached": None}
        yield known | {"seconds": seconds, "accuracy": _accuracies(models)}


def _config(options: argparse.Namespace) -> Config:
    return load_config(options.config, options.set, {"data.name": options.data} if options.data else {})


def _experiment(options: argparse.Namespace, recipe: str, kind: str) -> Experiment:
    config = _config(options)
    if kind not in config.synthesis:
        raise UserError(f"config '{options.config}' has no recipe for '{kind}'; {did_you_mean(kind, config.synthesis)}")
    own = config.synthesis[kind]
    # The ball goes with the images, not with the recipe.
    ball = {f"synthesis.{kind}.norm": own.norm, f"synthesis.{kind}.eps": own.eps}
    return Experiment(with_overrides(config, values=recipe_values(recipe, kind) | ball), options.folder)


def _accuracies(models: Sequence[TrainedModel]) -> dict[str, list[float]]:
    """By attack: the share that each model gets right."""
    found = [model.record["accuracy"] for model in models]
    attacked = {
        f"{norm} {eps}": [each[norm][eps] for each in found] for norm in ("l2", "linf") for eps in found[0][norm]
    }
    return {"clean": [each["clean"] for each in found], **attacked}


def _spread(values: Sequence[float]) -> str:
    shares = [100 * value for value in values]
    return f"{statistics.mean(shares):.1f} ({min(shares):.1f}-{max(shares):.1f})"


if __name__ == "__main__":
    sys.exit(main())
