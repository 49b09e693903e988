"""Sets made in parts by the command, and the same sets in one piece."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.helpers.cli_runs import ROOM, Ran, done, info, model, tiny

ROWS, BATCH = 40, 5


def words(kind: str, out: Path, *more: str | Path) -> list[str | Path]:
    """Eight batches of five rows."""
    source = ("--source", model("robust" if kind == "robust" else "standard"))
    return ["make-dataset", kind, "--config", tiny(), *source, "--set", f"synthesis.{kind}.batch_size={BATCH}",
            "--out", out, *more]  # fmt: skip


@cache
def whole(kind: str = "det") -> str:
    """The digest of what one run makes."""
    done(*words(kind, ROOM / f"unsharded-{kind}.h5"))
    return digest(ROOM / f"unsharded-{kind}.h5")


def digest(path: Path) -> str:
    return str(info(path)["content_sha256"])


def shards(out: Path, count: int, kind: str = "det", *more: str | Path) -> list[Path]:
    for number in range(1, count + 1):
        done(*words(kind, out, "--shard", f"{number}/{count}", *more))
    return sorted(out.parent.glob(f"{out.stem}.shard-*.h5"))


@cache
def three() -> list[Path]:
    """Not to be changed."""
    return shards(ROOM / "three" / "it.h5", 3)


def merged(paths: list[Path], *more: str | Path) -> Ran:
    return done("merge", *paths, *more)
