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

from featuregen.config import Config
from featuregen.errors import UserError
from featuregen.pipeline.jobs import Shard
from featuregen.pipeline.places import check_writable, dataset_path
from featuregen.pipeline.records import Trained
from featuregen.pipeline.workshop import Workshop
from featuregen.ranks import Ranks
from featuregen.runtime import Machine, note, resolve_device
from featuregen.store import Info, merge_shards
from featuregen.synthesis import RULES
from featuregen.whole import locked


def parse_shard(text: str) -> Shard:
    """`2/7` is the second of seven."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard is '{text}'; write it as i/n, with i from 1 to n, such as 2/7.")
    return Shard(int(found[1]), int(found[2]))


def make_shard(shop: Workshop, kind: str, path: Path, shard: Shard, source: Trained | None, force: bool) -> Info:
    """One job of an array. The first to come measures and trains what all need, and the others wait for it."""
    which = RULES[kind].source
    # First what costs nothing and may be refused.
    shop.job(kind, shard)
    with in_turn(shop.out / "arithmetic.lock", "waiting for another run that measures this machine's arithmetic"):
        _ = shop.machine
    part = shard.path(path)
    if not force:
        shop.is_made(kind, part, source, shard)
    if source is None:
        with in_turn(shop.out / f"{which}.lock", f"waiting for another run that trains the {which} model"):
            source = shop.source(which)
    return shop.make(kind, part, source, force, shard)


@contextmanager
def in_turn(path: Path, busy: str) -> Iterator[None]:
    """One job at a time, on every machine that sees the folder."""
    check_writable(path.parent)
    with locked(path, math.inf, partial(note, busy)):
        yield


@dataclass(frozen=True)
class Order:
    """What the first process settles for all of them."""

    path: str
    source: str
    arithmetic: dict[str, str]
    finished: bool


def make_together(
    ranks: Ranks, config: Config, folder: Path, kind: str, out: Path | None, source: Path | None, force: bool
) -> tuple[Workshop, Info] | None:
    """Every process makes its shard, the first one also what comes before and after; None for the others."""
    if ranks.first:
        shop = Workshop(config, folder)
        order, maker = _settle(
            shop, ranks.count, kind, out or dataset_path(folder, shop.base.name, kind), source, force
        )
        ranks.told(vars(order))
        _say_how(ranks, shop)
    else:
        order = Order(**ranks.told())
        if order.finished:
            return None
        device = resolve_device(config.runtime.device)
        shop = Workshop(config, folder, machine=Machine.computing(device, order.arithmetic))
        maker = shop.load_source(Path(order.source))
    path = Path(order.path)
    shards = [Shard(number, ranks.count) for number in range(1, ranks.count + 1)]
    if not order.finished:
        own = shards[ranks.number]
        shop.make(kind, own.path(path), maker, force, own, beside=ranks.beside)
        ranks.wait()
    if not ranks.first:
        return None
    parts = [shard.path(path) for shard in shards]
    if not order.finished:
        return shop, merge_shards(parts, path, force, remove=True)
    # Left by a run that was stopped while it removed them.
    for part in parts:
        part.unlink(missing_ok=True)
    return shop, shop.make(kind, path, maker)


def _settle(
    shop: Workshop, count: int, kind: str, path: Path, source: Path | None, force: bool
) -> tuple[Order, Trained]:
    given = shop.load_source(source) if source else None
    if force or not shop.is_made(kind, path, given):
        # Too many processes are refused before a source is trained.
        shop.job(kind, Shard(1, count))
    maker = given or shop.source(RULES[kind].source)
    finished = not force and shop.is_made(kind, path, maker)
    return Order(str(path), str(maker.path), shop.machine.arithmetic, finished), maker


def _say_how(ranks: Ranks, shop: Workshop) -> None:
    threads = torch.get_num_threads()
    if shop.device.type == "cpu" and not shop.config.runtime.threads:
        note(
            f"note: {ranks.count} processes, each of {threads} thread{'s' * (threads > 1)}; the last bits of images "
            "are those of runs with as many threads (runtime.threads)"
        )
