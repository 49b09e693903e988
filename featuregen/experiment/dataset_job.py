"""One file to make: its rows, its header, and the batches that fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featuregen.compute import fitting_batch, folded_copy
from featuregen.config import Config, Synthesis, to_dict
from featuregen.data import BaseDataset
from featuregen.errors import UserError
from featuregen.experiment.records import describe_batches
from featuregen.models import TrainedModel, describe_model
from featuregen.runtime import ComputeSpec, versions
from featuregen.storage import PAPER, Header, Writer
from featuregen.synthesis import RowPlan, synthesize


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, counted from 1: a run of whole batches, so that every row lies in a batch as it would in
    the whole, at the same place."""

    number: int
    of: int

    def path(self, whole: Path) -> Path:
        """Beside the whole."""
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
class Job:
    """`batch` 0 is as large as fits; `mark` is what the recipe says of a shard."""

    kind: str
    recipe: Synthesis
    plan: RowPlan
    batch: int = 0
    mark: Mapping[str, Any] = field(default_factory=dict[str, Any])


def job_of(kind: str, recipe: Synthesis, plan: RowPlan, shard: Shard | None) -> Job:
    """The whole plan, or a shard of it."""
    if shard is None:
        return Job(kind, recipe, plan)
    total = len(plan.index)
    batch = min(recipe.batch_size, total)
    rows = shard.rows(total, batch, kind)
    mark = {"number": shard.number, "of": shard.of, "rows": total, "first": rows.start}
    return Job(kind, recipe, plan.part(rows), batch, {"shard": mark})


def header_of(job: Job, base: BaseDataset, config: Config, compute: ComputeSpec, maker: TrainedModel | None) -> Header:
    return Header(
        kind=job.kind,
        rows=len(job.plan.index),
        image_shape=base.image_shape,
        dtype=job.recipe.dtype,
        classes=base.classes,
        recipe={"seed": config.seed, "synthesis": to_dict(job.recipe), **compute.arithmetic, **job.mark},
        base=base.record(),
        source_model=describe_model(maker) if maker else {},
        software=versions(compute),
        config=to_dict(config),
        citation=f"{base.citation} {PAPER}".strip(),
    )


def fill(
    writer: Writer, job: Job, maker: TrainedModel, base: BaseDataset, seed: int, compute: ComputeSpec, beside: int = 1
) -> None:
    """Make the rows that are missing, and the file; `beside` is how many do so at once on this machine."""
    batch = _fitting(job, maker, compute, beside) if job.batch else (writer.batches or [0])[0]
    batches = synthesize(
        job.kind, job.recipe, maker.model, base.train, job.plan,
        seed=seed, compute=compute, done=writer.rows_done, batch_size=batch,
    )  # fmt: skip
    for columns in batches:
        writer.append(columns)
    # The last batch of a shard may be its only one, and is padded to the size of all others.
    sizes = [batch, *writer.batches] if job.batch else writer.batches
    writer.finish(remarks={"batch": describe_batches(sizes)})


def _fitting(job: Job, maker: TrainedModel, compute: ComputeSpec, beside: int) -> int:
    """The job's batch, or for a set made again what fits: how far its images differ is told then."""
    fits = fitting_batch(folded_copy(maker.model, compute), job.batch, beside if compute.device.type == "cpu" else 1)
    if fits < job.batch and job.mark:
        # Some rows of the merged file would lie in other batches than those of a single run.
        raise UserError(
            f"synthesis.{job.kind}.batch_size is {job.recipe.batch_size}, which memory here is too small for, and all "
            f"shards are made in batches of one size; lower it to {fits} for all of them."
        )
    return fits
