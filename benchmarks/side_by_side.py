"""Speed of featuregen beside robustness, Foolbox, torchattacks and ART, at the same work.

    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.side_by_side [--models resnet18] [--data cifar10.npz] [--weights FOLDER] [--out results.json]

Claim: for the same steps from the same weights and images, featuregen needs less time than any of its peers and
reaches the same loss. The memory that this takes is reported beside it.
Method: the rows are L2 and Linf PGD, the feature inversion of D_R, the targeted attack of D_det, and adversarial
training. Each contender has a process of its own, and one works at a time. A row is one warm-up each, then rounds in
which each runs once. A ratio is the median over rounds of the ratio within a round. Building a contender (ART's
classifier, featuregen's folded copy and its choice of arithmetic) is not timed, except that featuregen's training folds
its copy in the epoch it times. Losses are those of the unfolded fp32 model on the CPU, on the images of the last round;
that of the epoch is the training loss. An untrained net turns last bits into other signs, so its Linf losses scatter by
some per cent. The hardware is printed first.
Needs: the peers: pip install -e ".[test]".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.contenders import OURS, rows
from benchmarks.peers import PACKAGES, PEERS, names, plays
from benchmarks.racing import Failure, Subject, Worker, race
from benchmarks.scoreboard import exit_code, flop_per_step, hardware, matmul_rates, row_record, table
from benchmarks.subjects import check_model, read_images, ready_model
from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import save_model
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.runtime.device import resolve_device

_LEGEND = """seconds: median of the rounds; of matmul: FLOP by direct convolutions over the rate of matrix products, so
that Winograd's, which multiply less, may pass what a direct engine could reach; /: times as long as that form of
featuregen; built: MiB that building the contender takes beside the model; MiB: peak of the process above its level
before the row; *: loss more than 1 % behind the row's best; !: images outside the ball or [0, 1]. Foolbox,
torchattacks and ART have no feature inversion."""


@dataclass(frozen=True)
class Options:
    models: list[str]
    rows: list[str]
    peers: list[str]
    batch: int
    rounds: int
    steps: int
    epoch_images: int
    device: str
    data: Path | None
    weights: Path | None
    out: Path | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help.")


def read_options(words: Sequence[str] | None) -> Options:
    parser = _Parser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--models", default="resnet9,resnet18,resnet50", help="architectures, separated by commas")
    parser.add_argument("--rows", default=",".join(rows()), help="what to compare (default: everything)")
    parser.add_argument("--peers", default=",".join(PEERS), help="whom to compare with (default: all four)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of every row but the epoch, whose attack takes 7")
    parser.add_argument("--epoch-images", type=int, default=256, help="images of the training row")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--data", type=Path, help=".npz with x_train, y_train, x_test, y_test (default: drawn images)")
    parser.add_argument("--weights", type=Path, help="folder with <model>.safetensors (default: untrained weights)")
    parser.add_argument("--out", type=Path, help="JSON with everything, rewritten after every row")
    found = vars(parser.parse_args(words))
    lists = {
        name: _chosen(name, found[name], known)
        for name, known in (("models", None), ("rows", rows()), ("peers", PEERS))
    }
    options = Options(**{**found, **lists})
    _check(options)
    return options


def _chosen(option: str, text: str, known: Iterable[str] | None) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise UserError(f"--{option} names nothing; give one or several, separated by commas.")
    for item in items:
        if known is not None and item not in known:
            raise UserError(f"--{option} has no '{item}'; {did_you_mean(item, known)}")
    return list(dict.fromkeys(items))


def _check(options: Options) -> None:
    for name, least in (("batch", 2), ("rounds", 1), ("steps", 1), ("epoch_images", options.batch)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least {least}.")
    for peer in options.peers:
        try:
            metadata.version(PACKAGES[peer])
        except metadata.PackageNotFoundError:
            raise UserError(f"{peer} is not installed: pip install {PACKAGES[peer]}, or choose with --peers.") from None
    if options.data and options.data.suffix != ".npz":
        raise UserError(f"--data is {options.data}; give a .npz file.")
    if options.weights and not options.weights.is_dir():
        raise UserError(f"--weights is {options.weights}, which is no folder.")
    resolve_device(options.device)


def gather(options: Options, subject: Subject, entry: dict[str, Any]) -> list[Worker]:
    """The contenders' processes; of featuregen's, none that computes in the same way as one before it."""
    workers: list[Worker] = []
    for name in names(options.peers):
        log(f"starting {name}")
        try:
            worker = Worker(name, subject, resolve_device(options.device))
        except Failure as failure:
            entry["failures"][name] = str(failure)
            continue
        about = worker.about
        entry["threads"][name] = about.threads
        if name in OURS:
            entry["arithmetic"][name] = about.title
        twin = next((other for other in workers if name in OURS and other.about.title == about.title), None)
        if twin:
            entry["same"][name] = twin.name
            worker.close()
        else:
            workers.append(worker)
    return workers


def compare(options: Options) -> int:
    device = resolve_device(options.device)
    images, labels, classes, told = read_images(options.data, max(2 * options.batch, options.epoch_images))
    for name in options.models:
        check_model(options.weights, name, (images.shape[1], images.shape[2], images.shape[3]), classes)
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["out"]
    record: dict[str, Any] = {"settings": settings, "images": told, "hardware": hardware(device, options.peers)}
    record |= {"matmul_gflop_per_s": matmul_rates(device, 8192 if device.type == "cuda" else 2048), "models": {}}
    save(options.out, record)
    print("\n".join([*_head(record), _LEGEND]), flush=True)
    for name in options.models:
        model, weights = ready_model(options.weights, name, images, classes)
        entry = {"weights": weights, "flop_per_step": flop_per_step(model)}
        entry |= {key: {} for key in ("arithmetic", "threads", "same", "failures", "rows")}
        record["models"][name] = entry
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, Path(folder) / "model.safetensors")
            subject = Subject(Path(folder) / "model.safetensors", images, labels, options.batch, options.epoch_images)
            workers = gather(options, subject, entry)
            try:
                print("\n".join(_model_head(name, entry)), flush=True)
                _run_rows(options, model, subject, workers, record, entry)
            finally:
                for worker in workers:
                    worker.close()
    rows_run = [row for entry in record["models"].values() for row in [entry, *entry["rows"].values()]]
    return 1 if any(row["failures"] for row in rows_run) else 0


def _head(record: dict[str, Any]) -> list[str]:
    compute, rates = record["hardware"], record["matmul_gflop_per_s"]
    versions = ", ".join(f"{name} {version}" for name, version in compute["versions"].items())
    place = f"{compute['processor']}, {compute['cores']} cores, {compute['threads']} threads"
    speeds = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    return [
        f"{place}, {compute['gpu'] or 'no GPU used'}; {versions}",
        f"images: {record['images']}; matrix products, GFLOP/s: {speeds}",
    ]


def _model_head(name: str, entry: dict[str, Any]) -> list[str]:
    lines = [f"\n{name}: {entry['flop_per_step'] / 1e9:.2f} GFLOP per image-step; {entry['weights']}"]
    lines += [f"{own} computes in {entry['arithmetic'][own]}" for own in OURS if own in entry["arithmetic"]]
    lines += [f"{own} is not run, since it computes as {twin} does" for own, twin in entry["same"].items()]
    return lines + [f"{who} cannot start: {reason}" for who, reason in entry["failures"].items()]


def _run_rows(
    options: Options,
    model: Classifier,
    subject: Subject,
    workers: list[Worker],
    record: dict[str, Any],
    entry: dict[str, Any],
) -> None:
    speeds = record["matmul_gflop_per_s"]
    matmul = {worker.name: speeds[_arithmetic(worker, speeds)] * 1e9 for worker in workers}
    known = {
        "matmul": matmul,
        "flop_per_step": entry["flop_per_step"],
        "built": {worker.name: worker.about.built for worker in workers},
    }
    table_of = rows(options.steps)
    for row in (table_of[name] for name in options.rows):
        outcomes = race([worker for worker in workers if plays(worker.name, row)], row, options.rounds)
        entry["rows"][row.name] = row_record(model, row, subject, outcomes, known)
        save(options.out, record)
        print("\n" + table(str(row), entry["rows"][row.name]), flush=True)


def _arithmetic(worker: Worker, speeds: dict[str, float]) -> str:
    """Whose rate its products could reach. On CUDA, torch lets fp32 convolutions round to tf32."""
    if worker.about.title.startswith("bf16"):
        return "bf16"
    return "tf32" if "tf32" in speeds and torch.backends.cudnn.allow_tf32 else "fp32"


def save(path: Path | None, record: dict[str, Any]) -> None:
    """After every row, so that a run that is killed keeps those it has finished."""
    if path is not None:
        atomic_write(path, json.dumps(record, indent=1) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
