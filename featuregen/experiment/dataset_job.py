"""One dataset file to make: its rows, its header, and the batches that fill it."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featuregen.compute.autotune import fitting_batch
from featuregen.compute.folding import folded_copy
from featuregen.config.kinds import KINDS
from featuregen.config.schema import Config, Synthesis
from featuregen.config.serialize import to_dict, to_record
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.models.io import TrainedModel, describe_model
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, versions
from featuregen.runtime.ledger import is_remembered
from featuregen.storage.schema import PAPER, Header
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.writer import Writer, check_compatible
from featuregen.synthesis.generate import RowPlan, synthesize


def dataset_path(folder: Path, base: str, kind: str) -> Path:
    return folder / f"{base}-{kind}.h5"


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `of`, counted from 1.

    It is a run of whole batches, so that every row lies in the batch, and at the place, where a single run has it.
    """

    number: int
    of: int

    def path(self, whole: Path) -> Path:
        """The shard's file, beside the file of the whole dataset."""
        digits = max(2, len(str(self.of)))
        return whole.with_name(f"{whole.stem}.shard-{self.number:0{digits}}-of-{self.of:0{digits}}{whole.suffix}")

    def rows(self, total: int, batch: int, kind: str) -> slice:
        batches = -(-total // batch)
        if self.of > batches:
            raise UserError(
                f"{kind} is {total} rows in {batches} batch{'es' * (batches > 1)} of {batch}, which {self.of} shards "
                f"cannot share; make {batches} or fewer, or lower synthesis.{kind}.batch_size to "
                f"{max(1, total // self.of)}."
            )
        first, end = ((number * batches // self.of) * batch for number in (self.number - 1, self.number))
        return slice(first, min(end, total))


@dataclass(frozen=True)
class DatasetJob:
    """What a dataset file will hold; `batch` 0 means as large as fits, `shard` is what the recipe says of a shard."""

    kind: str
    recipe: Synthesis
    plan: RowPlan
    config: Config
    base: BaseDataset
    compute: ComputeSpec
    batch: int = 0
    shard: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def source(self) -> str:
        """Which source model makes it: robust or standard."""
        return KINDS[self.kind].source

    def header(self, source: TrainedModel | None) -> Header:
        """The file's attributes; without a source model, those that any would have."""
        recipe = {"seed": self.config.seed, "synthesis": to_dict(self.recipe), **self.compute.numerics, **self.shard}
        return Header(
            kind=self.kind,
            rows=len(self.plan.index),
            image_shape=self.base.image_shape,
            dtype=self.recipe.dtype,
            classes=self.base.classes,
            recipe=recipe,
            base=self.base.record(),
            source_model=describe_model(source) if source else {},
            software=versions(self.compute),
            config=to_record(self.config),
            citation=f"{self.base.citation} {PAPER}".strip(),
        )

    def is_done(self, path: Path, source: TrainedModel | None) -> bool:
        """Whether the file exists already; a different one in its place is refused."""
        return check_compatible(path, self.header(source))

    def run(self, path: Path, source: TrainedModel, force: bool = False, processes: int = 1) -> FeatureDataset:
        """Write the file, or what an interrupted run left to write of it.

        `processes` is how many such jobs share this machine's memory.
        """
        with Writer.open(path, self.header(source), force) as writer:
            if not writer.complete:
                self._fill(writer, source, processes)
        data = FeatureDataset(path)
        if not is_remembered("dataset", data.info.content_sha256):
            log(f"note: {path} was not made on this machine; `featuregen remake` makes it again and compares")
        return data

    def _fill(self, writer: Writer, source: TrainedModel, processes: int) -> None:
        batch = self._fitting_batch(source, processes) if self.batch else (writer.batches or [0])[0]
        batches = synthesize(
            self.kind, self.recipe, source.model, self.base.train, self.plan,
            seed=self.config.seed, compute=self.compute, done=writer.rows_done, batch_size=batch,
        )  # fmt: skip
        for columns in batches:
            writer.append(columns)
        # A shard may have one batch only, which is padded to the size of all others.
        sizes = [batch, *writer.batches] if self.batch else writer.batches
        writer.finish(remarks={"batch": _describe_batches(sizes)})

    def _fitting_batch(self, source: TrainedModel, processes: int) -> int:
        """The job's batch size; outside shards, less where memory is short, which the file then records."""
        sharing = processes if self.compute.device.type == "cpu" else 1
        fits = fitting_batch(folded_copy(source.model, self.compute), self.batch, sharing)
        if fits < self.batch and self.shard:
            # Some rows of the merged file would lie in other batches than those of a single run.
            raise UserError(
                f"synthesis.{self.kind}.batch_size is {self.recipe.batch_size}, which memory here is too small for, "
                f"and all shards are made in batches of one size; lower it to {fits} for all of them."
            )
        return fits


def shard_job(job: DatasetJob, shard: Shard) -> DatasetJob:
    """The part of a job that one shard holds."""
    total = len(job.plan.index)
    batch = min(job.recipe.batch_size, total)
    rows = shard.rows(total, batch, job.kind)
    mark = {"number": shard.number, "of": shard.of, "rows": total, "first": rows.start}
    return DatasetJob(
        job.kind, job.recipe, job.plan.take(rows), job.config, job.base, job.compute, batch, {"shard": mark}
    )


def _describe_batches(sizes: Sequence[int]) -> str:
    """How many rows were made at once; a file whose batches had to shrink says what that costs."""
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return str(sizes[0])
    return f"{sizes[0]}, later {min(sizes[:-1])}, since memory ran out: made again, images may differ in their bytes"


def find_shards(whole: Path) -> dict[int, list[Path]]:
    """The shards beside a file, finished or not, by how many it was divided into."""
    shards: dict[int, list[Path]] = {}
    for path in sorted(whole.parent.glob(f"{glob.escape(whole.stem)}.shard-*")):
        name = path.name.removesuffix(".partial")
        if match := re.search(r"\.shard-(\d{2,6})-of-(\d{2,6})\.", name):
            shard = Shard(int(match[1]), int(match[2]))
            if 1 <= shard.number <= shard.of and name == shard.path(whole).name:
                shards.setdefault(shard.of, []).append(path)
    return shards


def warn_unused_shards(whole: Path, used: int = 0) -> None:
    """Name the shards beside a file that this run does not use; `used` is the division that it does."""
    for of, paths in find_shards(whole).items():
        if of != used:
            more, ending = (f" and {len(paths) - 1} more", "") if len(paths) > 1 else ("", "s")
            log(
                f"note: {paths[0]}{more}, of a division into {of}, stay{ending} unused here; resume with "
                f"--shard i/{of} or torchrun, or delete what is not wanted"
            )
