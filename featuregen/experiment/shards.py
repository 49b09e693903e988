"""A set made in parts: by the jobs of an array, or by the processes of torchrun."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from featuregen.config.schema import Config
from featuregen.errors import UserError
from featuregen.experiment.dataset_job import Shard, dataset_path, find_shards, warn_unused_shards
from featuregen.experiment.experiment import Experiment
from featuregen.models.io import TrainedModel
from featuregen.runtime.atomic import check_writable, lock_path, locked
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, resolve_device
from featuregen.runtime.distributed import DistInfo
from featuregen.runtime.marks import check_replaceable
from featuregen.storage.merge import merge
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.torch_dataset import FeatureDataset


def parse_shard(text: str) -> Shard:
    """`2/7` is the second of seven."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard is '{text}'; write it as i/n, with i from 1 to n, such as 2/7.")
    return Shard(int(found[1]), int(found[2]))


def make_shard(
    experiment: Experiment,
    kind: str,
    path: str | Path,
    shard: Shard,
    source: TrainedModel | None = None,
    force: bool = False,
) -> FeatureDataset:
    """Make one shard, as one job of an array.

    The first job measures arithmetic and trains the source model that all need; the others wait for it.
    """
    path = Path(path)
    # What costs nothing and may be refused comes first.
    _check_shard(experiment, kind, shard)
    warn_unused_shards(path, used=shard.of)
    with _one_job_at_a_time(
        lock_path(experiment.out / "arithmetic"), "waiting for another run that measures this machine's arithmetic"
    ):
        job = experiment.dataset_job(kind, shard)
    output = shard.path(path)
    if not force:
        job.is_done(output, source)
    if source is None:
        with _one_job_at_a_time(
            lock_path(experiment.out / job.source), f"waiting for another run that trains the {job.source} model"
        ):
            source = experiment.source_model(job.source)
    return experiment.write_dataset(job, output, source, force)


def _check_shard(experiment: Experiment, kind: str, shard: Shard) -> None:
    recipe = experiment.synthesis_recipe(kind)
    total = recipe.rows or len(experiment.base.train)
    shard.rows(total, min(recipe.batch_size, total), kind)


@contextmanager
def _one_job_at_a_time(path: Path, message: str) -> Iterator[None]:
    """Hold a lock that every machine sees which shares the folder."""
    check_writable(path.parent)
    with locked(path, math.inf, partial(log, message)):
        yield


@dataclass(frozen=True)
class ShardAssignment:
    """What the main process decides for all: the division, and which shards are still missing."""

    path: str
    source: str
    numerics: dict[str, str]
    finished: bool
    count: int
    missing: list[int]

    @property
    def shards(self) -> list[Shard]:
        return [Shard(number, self.count) for number in range(1, self.count + 1)]


def make_distributed(
    dist: DistInfo, config: Config, folder: Path, kind: str, out: Path | None, source: Path | None, force: bool
) -> tuple[Experiment, FeatureDataset] | None:
    """Make a dataset in all processes of torchrun, each its shards; the main one merges them. None for the others."""
    if dist.is_main:
        experiment = Experiment(config, folder)
        path = out or dataset_path(folder, experiment.base.name, kind)
        check_replaceable(path.with_suffix(".png"), force=force)
        assignment, model = _assign_shards(experiment, dist.world_size, kind, path, source, force)
        dist.broadcast_object(vars(assignment))
        _log_processes(dist, experiment)
    else:
        assignment = ShardAssignment(**dist.broadcast_object())
        if assignment.finished:
            return None
        compute = ComputeSpec.from_numerics(resolve_device(config.runtime.device), assignment.numerics)
        experiment = Experiment(config, folder, compute=compute)
        model = experiment.load_model(Path(assignment.source))
    path = Path(assignment.path)
    for number in assignment.missing[dist.rank :: dist.world_size]:
        shard = Shard(number, assignment.count)
        job = experiment.dataset_job(kind, shard)
        experiment.write_dataset(job, shard.path(path), model, force, processes=dist.local_world_size)
    if not assignment.finished:
        dist.barrier()
    if not dist.is_main:
        return None
    if not assignment.finished:
        merge([shard.path(path) for shard in assignment.shards], path, force, remove=True)
        data = FeatureDataset(path)
    else:
        data = experiment.write_dataset(experiment.dataset_job(kind), path, model)
        _remove_merged_shards(experiment, kind, path, model, assignment, data.info)
    warn_unused_shards(path)
    return experiment, data


def _remove_merged_shards(
    experiment: Experiment, kind: str, path: Path, model: TrainedModel, assignment: ShardAssignment, info: DatasetInfo
) -> None:
    """Remove the shards that a run left which was stopped while it removed them."""
    for shard in assignment.shards if info.software.get("shards") == str(assignment.count) else ():
        if experiment.dataset_job(kind, shard).is_done(shard.path(path), model):
            shard.path(path).unlink()


def _assign_shards(
    experiment: Experiment, processes: int, kind: str, path: Path, source: Path | None, force: bool
) -> tuple[ShardAssignment, TrainedModel]:
    model = experiment.load_model(source) if source else None
    count = processes if force else _shard_count(path, processes)
    whole = experiment.dataset_job(kind)
    if force or not whole.is_done(path, model):
        # Too many processes are refused before a source model is trained.
        _check_shard(experiment, kind, Shard(1, count))
    model = model or experiment.source_model(whole.source)
    finished = not force and whole.is_done(path, model)
    assignment = ShardAssignment(str(path), str(model.path), experiment.compute.numerics, finished, count, [])
    if not finished:
        for shard in assignment.shards:
            if force or not experiment.dataset_job(kind, shard).is_done(shard.path(path), model):
                assignment.missing.append(shard.number)
    if count != processes and assignment.missing:
        idle = max(0, processes - len(assignment.missing))
        rest = f"; {idle} of {processes} processes {'have' if idle > 1 else 'has'} nothing to do" if idle else ""
        log(
            f"note: going on with the {count} shards of an earlier run, {len(assignment.missing)} of them to make{rest}"
        )
    return assignment, model


def _shard_count(path: Path, processes: int) -> int:
    """The division of an earlier run, if it left shards, else one shard for each process."""
    shards = find_shards(path)
    return processes if processes in shards or not shards else max(shards, key=lambda of: len(shards[of]))


def _log_processes(dist: DistInfo, experiment: Experiment) -> None:
    threads = torch.get_num_threads()
    if experiment.device.type == "cpu" and not experiment.config.runtime.threads:
        log(
            f"note: {dist.world_size} processes, each of {threads} thread{'s' * (threads > 1)}; the last bits of "
            "images are those of runs with as many threads (runtime.threads)"
        )
