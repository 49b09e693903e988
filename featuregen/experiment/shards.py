"""A set made in parts: by the jobs of an array, or by the processes of torchrun."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from featuregen.config import Config
from featuregen.errors import UserError
from featuregen.experiment.dataset_job import Shard
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.paths import check_writable, dataset_path
from featuregen.experiment.records import TrainedModel
from featuregen.runtime import ComputeSpec, DistInfo, locked, log, resolve_device
from featuregen.storage import DatasetInfo
from featuregen.storage.merge import merge
from featuregen.synthesis import RULES


def parse_shard(text: str) -> Shard:
    """`2/7` is the second of seven."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard is '{text}'; write it as i/n, with i from 1 to n, such as 2/7.")
    return Shard(int(found[1]), int(found[2]))


def make_shard(
    experiment: Experiment, kind: str, path: Path, shard: Shard, source: TrainedModel | None, force: bool
) -> DatasetInfo:
    """One job of an array. The first to come measures and trains what all need, and the others wait for it."""
    which = RULES[kind].source
    # First what costs nothing and may be refused.
    experiment.job(kind, shard)
    warn_unused_shards(path, besides=shard.of)
    with in_turn(experiment.out / "arithmetic.lock", "waiting for another run that measures this machine's arithmetic"):
        _ = experiment.compute
    part = shard.path(path)
    if not force:
        experiment.dataset_exists(kind, part, source, shard)
    if source is None:
        with in_turn(experiment.out / f"{which}.lock", f"waiting for another run that trains the {which} model"):
            source = experiment.source(which)
    return experiment.make(kind, part, source, force, shard)


@contextmanager
def in_turn(path: Path, busy: str) -> Iterator[None]:
    """One job at a time, on every machine that sees the folder."""
    check_writable(path.parent)
    with locked(path, math.inf, partial(log, busy)):
        yield


def find_shards(whole: Path) -> dict[int, list[Path]]:
    """Shards that lie beside a file, finished or not, by how many it was divided into."""
    found: dict[int, list[Path]] = {}
    for path in sorted(whole.parent.glob(f"{glob.escape(whole.stem)}.shard-*")):
        name = path.name.removesuffix(".partial")
        if told := re.search(r"\.shard-(\d{2,6})-of-(\d{2,6})\.", name):
            shard = Shard(int(told[1]), int(told[2]))
            if 1 <= shard.number <= shard.of and name == shard.path(whole).name:
                found.setdefault(shard.of, []).append(path)
    return found


def warn_unused_shards(whole: Path, besides: int = 0) -> None:
    """Name the shards that nothing here goes on with, lest they lie there unnoticed."""
    for of, paths in find_shards(whole).items():
        if of != besides:
            more, ending = (f" and {len(paths) - 1} more", "") if len(paths) > 1 else ("", "s")
            log(
                f"note: {paths[0]}{more}, of a division into {of}, stay{ending} unused here; go on from there with "
                f"--shard i/{of} or torchrun, or delete what is not wanted"
            )


@dataclass(frozen=True)
class ShardAssignment:
    """What the first process settles for all of them: of how many shards which are still to be made, too."""

    path: str
    source: str
    arithmetic: dict[str, str]
    finished: bool
    shards: int
    missing: list[int]

    @property
    def parts(self) -> list[Shard]:
        return [Shard(number, self.shards) for number in range(1, self.shards + 1)]


def make_together(
    dist: DistInfo, config: Config, folder: Path, kind: str, out: Path | None, source: Path | None, force: bool
) -> tuple[Experiment, DatasetInfo] | None:
    """Every process makes its shard, the first one also what comes before and after; None for the others."""
    if dist.is_main:
        experiment = Experiment(config, folder)
        order, maker = _settle(
            experiment, dist.world_size, kind, out or dataset_path(folder, experiment.base.name, kind), source, force
        )
        dist.broadcast_object(vars(order))
        _say_how(dist, experiment)
    else:
        order = ShardAssignment(**dist.broadcast_object())
        if order.finished:
            return None
        device = resolve_device(config.runtime.device)
        experiment = Experiment(config, folder, compute=ComputeSpec.computing(device, order.arithmetic))
        maker = experiment.load_source(Path(order.source))
    path = Path(order.path)
    for number in order.missing[dist.rank :: dist.world_size]:
        own = Shard(number, order.shards)
        experiment.make(kind, own.path(path), maker, force, own, beside=dist.local_world_size)
    if not order.finished:
        dist.barrier()
    if not dist.is_main:
        return None
    if not order.finished:
        info = merge([part.path(path) for part in order.parts], path, force, remove=True)
    else:
        info = experiment.make(kind, path, maker)
        # Those left by a run that was stopped while it removed them.
        for part in order.parts if info.software.get("shards") == str(order.shards) else ():
            if experiment.dataset_exists(kind, part.path(path), maker, part):
                part.path(path).unlink()
    warn_unused_shards(path)
    return experiment, info


def _settle(
    experiment: Experiment, count: int, kind: str, path: Path, source: Path | None, force: bool
) -> tuple[ShardAssignment, TrainedModel]:
    given = experiment.load_source(source) if source else None
    shards = count if force else _shard_count(path, count)
    if force or not experiment.dataset_exists(kind, path, given):
        # Too many processes are refused before a source is trained.
        experiment.job(kind, Shard(1, shards))
    maker = given or experiment.source(RULES[kind].source)
    finished = not force and experiment.dataset_exists(kind, path, maker)
    order = ShardAssignment(str(path), str(maker.path), experiment.compute.arithmetic, finished, shards, [])
    if not finished:
        made = [not force and experiment.dataset_exists(kind, part.path(path), maker, part) for part in order.parts]
        order.missing.extend(part.number for part, there in zip(order.parts, made, strict=True) if not there)
    if shards != count and order.missing:
        idle = max(0, count - len(order.missing))
        rest = f"; {idle} of {count} processes {'have' if idle > 1 else 'has'} nothing to do" if idle else ""
        log(f"note: going on with the {shards} shards of an earlier run, {len(order.missing)} of them to make{rest}")
    return order, maker


def _shard_count(path: Path, count: int) -> int:
    """That of the run before, if there are shards of one, whatever number of processes it had; most of them win."""
    there = find_shards(path)
    return count if count in there or not there else max(there, key=lambda of: len(there[of]))


def _say_how(dist: DistInfo, experiment: Experiment) -> None:
    threads = torch.get_num_threads()
    if experiment.device.type == "cpu" and not experiment.config.runtime.threads:
        log(
            f"note: {dist.world_size} processes, each of {threads} thread{'s' * (threads > 1)}; the last bits of "
            "images are those of runs with as many threads (runtime.threads)"
        )
