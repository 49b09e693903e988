"""Strength and speed of featuregen's attacks beside those of the same name in other packages, on a model of your own.

    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.attack_race MODEL.safetensors [--data mnist.npz] [--rows 200] [--l2 1.5] [--out results.json]

Claim: featuregen's success rate is at most one point below a peer's, its smallest perturbations are at most 2 % larger
in the median, and it takes less time. The one-pixel attack takes at least 20 times less, where peers search with the
population of its paper and featuregen with its default, a quarter of that (`pixels-alike`: with the same population).
Method: all attack the same model object in fp32 with frozen parameters, which spares the peers gradients that they do
not need, and the same test images in the same batches, with the same steps or queries. featuregen's job is that of
`attack()`, which folds the batch norm of a copy inside the timed part; it includes the predictions before and after,
and costs each peer the same two forward passes. Each pair has one warm-up on two images, then laps in which each
contender runs once, in rotating order. A ratio is the median over laps of the ratio within a lap. Building a peer's
wrapper is not timed. Success is that of the last lap, judged by the model itself. Pairs in which a peer works image by
image get the first `--few` images. The hardware is printed first.
Needs: a saved model, its base set, and the peers: pip install -e ".[test]".
Exit code: 1 where featuregen is clearly weaker or not faster, or a peer fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attack_pairs import Effort, Pair, Result, in_batches, judged, pairs, seed_peers
from benchmarks.attack_peers import Run
from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.attacks.criterion import Criterion
from featuregen.attacks.result import measure_result
from featuregen.compute.optimize import frozen_eval
from featuregen.config.loader import did_you_mean
from featuregen.config.schema import Data
from featuregen.data.base_dataset import balanced_rows
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import load_model
from featuregen.runtime.console import log
from featuregen.runtime.device import resolve_device, tune_malloc

_OURS, _PACKAGES = "featuregen", ("foolbox", "torchattacks", "art")
_POINT, _LARGER = 0.01, 1.02


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("model", type=Path, help="a model that featuregen saved, .safetensors")
    parser.add_argument("--data", default="digits", help="a set's name, or .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--rows", type=int, default=200, help="test images, of every class alike")
    parser.add_argument("--few", type=int, default=20, help="images where a peer goes image by image")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--pairs", default=",".join(pairs(Effort())), help="what to compare (default: everything)")
    parser.add_argument("--peers", default=",".join(_PACKAGES), help="whom to compare with (default: all)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--out", type=Path, help="JSON with everything, rewritten after every pair")
    for field in fields(Effort):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.parse_args(words)
    options.pairs, options.peers = _names(options.pairs), _names(options.peers)
    _check(options)
    return options


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def _check(options: argparse.Namespace) -> None:
    for option, known in (("pairs", list(pairs(Effort()))), ("peers", list(_PACKAGES))):
        for name in getattr(options, option):
            if name not in known:
                raise UserError(f"--{option} has no '{name}'; {did_you_mean(name, known)}")
    for name in ("rows", "few", "batch", "laps"):
        low = 2 if name in ("rows", "few") else 1
        if getattr(options, name) < low:
            raise UserError(f"--{name} is {getattr(options, name)}; give at least {low}.")
    for field in fields(Effort):
        value = getattr(options, field.name)
        if not (value >= 0 if field.name == "seed" else value > 0):
            raise UserError(f"--{field.name} is {value}; give more than 0.")


def inputs(options: argparse.Namespace, model: Classifier, device: torch.device) -> tuple[Tensor, Tensor]:
    base = load_images(Data(options.data))
    if (base.image_shape, len(base.classes)) != (model.image_shape, model.classes):
        raise UserError(
            f"{options.model} is for {model.classes} classes of images {model.image_shape}, and {options.data} has "
            f"{len(base.classes)} of {base.image_shape}; give the images it was trained on with --data."
        )
    if options.rows > len(base.test):
        raise UserError(f"--rows is {options.rows}, and {options.data} has {len(base.test)} test images.")
    rows = balanced_rows(base.test.labels, options.rows, options.seed)
    images, labels = base.test.images_tensor(device, rows), base.test.labels_tensor(device, rows)
    if not _any_right(model, images[: options.few], labels[: options.few]):
        raise UserError(f"{options.model} gets none of the first {options.few} images right, so none can be attacked.")
    return images, labels


@torch.no_grad()
def _any_right(model: Classifier, images: Tensor, labels: Tensor) -> bool:
    return bool((model(images).argmax(1) == labels).any())


def laps_of(
    runs: Mapping[str, Run], images: Tensor, labels: Tensor, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Tensor], dict[str, str]]:
    """By contender: seconds of each lap, images of the last, and why one was left out."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Tensor] = {}
    failures: dict[str, str] = {}
    names = list(runs)
    for lap in range(-1, options.laps):
        turn = max(lap, 0) % len(names)
        for name in [*names[turn:], *names[:turn]]:
            if name in failures:
                continue
            part = slice(2) if lap < 0 else slice(None)
            seed_peers(options.seed)
            try:
                spent, found[name] = _timed(runs[name], images[part], labels[part], options.batch)
            except Exception as error:
                if name == _OURS:
                    raise
                failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                continue
            if lap >= 0:
                seconds[name].append(spent)
    return seconds, found, failures


def _timed(run: Run, images: Tensor, labels: Tensor, batch: int) -> tuple[float, Tensor]:
    _wait(images)
    started = time.perf_counter()
    found = in_batches(run, images, labels, batch)
    _wait(images)
    return time.perf_counter() - started, found.detach()


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def with_outcome(run: Run, model: Classifier) -> Run:
    """A peer's attack, and what became of every image."""

    def whole(images: Tensor, labels: Tensor) -> Tensor:
        found = run(images, labels)
        return measure_result(model, images, found.detach(), Criterion(labels), len(images)).images

    return whole


def raced(model: Classifier, pair: Pair, images: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    if pair.single:
        images, labels = images[: options.few], labels[: options.few]
    runs = {_OURS: pair.ours(model, options.batch, options.seed)}
    # A peer is named by its package, and where that has several such attacks, by the attack too.
    peers = {name: peer for name, peer in pair.peers.items() if name.split()[0] in options.peers}
    runs |= {name: with_outcome(peer.start(model.requires_grad_(False)), model) for name, peer in peers.items()}
    seconds, found, failures = laps_of(runs, images, labels, options)
    results = {name: judged(model, pair, images, labels, found[name]) for name in runs if name not in failures}
    done = {
        name: {
            **asdict(result),
            "seconds": seconds[name],
            "ms_per_image": 1000 * statistics.median(seconds[name]) / len(images),
            "ratios": [theirs / ours for theirs, ours in zip(seconds[name], seconds[_OURS], strict=True)],
            "weaker": weaker(results[_OURS], result),
        }
        for name, result in results.items()
    }
    for entry in done.values():
        entry["ratio"] = statistics.median(entry["ratios"])
    about = {"attack": pair.attack, "options": dict(pair.options), "norm": pair.norm, "least": pair.least}
    return {**about, "images": len(images), "contenders": done, "failures": failures}


def weaker(ours: Result, theirs: Result) -> bool:
    """Whether ours falls clearly behind."""
    if ours.median is not None and theirs.median is not None and ours.median > theirs.median * _LARGER:
        return True
    return ours.success < theirs.success - _POINT


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    text = []
    for who, entry in record["contenders"].items():
        norm = "" if entry["median"] is None else f"{entry['median']:.4f}"
        spread = "" if who == _OURS else f"{min(entry['ratios']):.1f}–{max(entry['ratios']):.1f}"
        ratio = "" if who == _OURS else f"{entry['ratio']:.1f}"
        flaws = "*" * entry["weaker"] + "!" * (entry["outside"] > 0)
        text.append(
            f"{name if who == _OURS else '':18} {who:24} {100 * entry['success']:8.1f} {norm:>8}"
            f" {entry['ms_per_image']:10.2f} {ratio:>8} {spread:>14} {flaws}".rstrip()
        )
    return text + [f"{'':18} {who} failed: {reason}" for who, reason in record["failures"].items()]


_HEAD = f"{'pair':18} {'':24} {'success':>8} {'norm':>8} {'ms/image':>10} {'/ ours':>8} {'min–max':>14}"
_LEGEND = """success in % of the images that the model gets right; norm: median of the smallest changes; / ours: how
many times as long as featuregen, median of the laps; *: featuregen is weaker by more than a point, or its changes are
by more than 2 % larger; !: images outside the ball or [0, 1], which are no successes."""


def compare(options: argparse.Namespace) -> int:
    device = resolve_device(options.device)
    tune_malloc()  # as the commands do, and for all of them
    model = load_model(options.model, device)
    images, labels = inputs(options, model.eval(), device)
    table = pairs(Effort(**{field.name: getattr(options, field.name) for field in fields(Effort)}))
    told = {key: value for key, value in vars(options).items() if key != "out"} | {"model": options.model.name}
    record: dict[str, Any] = {"settings": told, "hardware": hardware(device, _PACKAGES), "pairs": {}}
    record["command"] = " ".join(["python -m benchmarks.attack_race", *_words(options)])
    save(options.out, record)
    print("\n".join([*_machine(record["hardware"]), _LEGEND, _HEAD]), flush=True)
    with frozen_eval(model):
        for name in options.pairs:
            log(f"racing {name}")
            record["pairs"][name] = raced(model, table[name], images, labels, options)
            save(options.out, record)
            print("\n".join(lines(name, record["pairs"][name])), flush=True)
    return 0 if all(_holds(pair) for pair in record["pairs"].values()) else 1


def _holds(pair: Mapping[str, Any]) -> bool:
    theirs = [entry for name, entry in pair["contenders"].items() if name != _OURS]
    return not pair["failures"] and all(entry["ratio"] > pair["least"] and not entry["weaker"] for entry in theirs)


def _machine(about: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    place = f"{about['processor']}, {about['cores']} cores, {about['threads']} threads"
    return [f"{place}, {about['gpu'] or 'no GPU used'}; {versions}"]


def _words(options: argparse.Namespace) -> list[str]:
    """The command again, without its folders."""
    said = {key: value for key, value in vars(options).items() if key not in ("model", "out", "pairs", "peers")}
    said["data"] = Path(options.data).name
    words = [f"--{name} {value}" for name, value in said.items()]
    chosen = [f"--{name} {','.join(getattr(options, name))}" for name in ("pairs", "peers")]
    return [options.model.name, *words, *chosen]


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
