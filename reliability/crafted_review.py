"""The rows of the review that this trial answers to, and the cases that stand for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# The case of the review, as its table names it, and how the names of the cases here begin.
ROWS: dict[str, tuple[str, ...]] = {
    # The ten worst.
    "writes outside the folder": ("folders/link a.png.partial to file", "folders/link a.npz.partial to file",
        "folders/link a-remade.h5.partial to file"),
    "deletes what is not ours": ("folders/own folder a-share.old", "folders/own folder a-imagefolder.old",
        "folders/own folder a-imagefolder.partial", "folders/own file a.png/preview"),
    "overwrites without --force": ("folders/own file o.png", "folders/own file f/flips.csv",
        "folders/own file f/flips.json", "folders/own file r/tiny/report.html"),
    "finished rows go with another setting": ("lost work/",),
    "tampered is the same": ("shared/tampered",),
    "code runs": ("shared/matplotlibrc",),
    "forged results": ("shared/forged",),
    "a worker that dies while it starts": ("workers/SIGKILL to a worker after 0.0",
        "workers/SIGKILL to all workers after 0.0"),
    "pictures": ("pictures/16 bits", "pictures/grey first"),
    "nine bytes of a good file": ("hdf5/child is itself", "hdf5/right sibling itself", "hdf5/chunk child is itself"),
    "paths of others": ("records/config-data-tilde/", "records/config-data-fifo/"),
    "verify and its documents": ("shared/verify of a file whose source_pred is partly -1", "sums/"),
    # Crafted HDF5.
    **{
        name: (f"records/{name}/",)
        for name in (
            "kind-attacked-c", "config-data-tilde", "config-data-tilde2", "config-data-1MB", "config-key-esc",
            "noise-gone",
            "seed-gone", "shard-zero", "shard-text", "kind-unknown-nosyn", "kind-attacked-e", "kind-attacked-split",
            "source-list", "source-settings-text", "software-device-esc", "software-batch-4301", "norm-list",
            "norm-dict",
            "base-split-esc", "base-split-esc-name", "classes-esc", "classes-surrogate", "classes-long", "classes-200k",
            "rate-inf", "range-nan", "15k text attributes", "software-batch-huge", "index max",
            "start max",
            "five channels", "index beyond", "rob start beyond", "eps list 1e5", "restarts 1e12",
        )
    },
    "config-threads": ("records/config-threads/", "records/config-threads-1024/"),
    # HDF5 2.0 follows no sibling in the tree of a group, and notices a circle there while it looks a name up.
    "child is itself": ("hdf5/child is itself",),
    "right sibling itself": ("hdf5/right sibling itself/", "hdf5/chunk sibling is itself/"),
    "leaf sibling cycle": ("hdf5/leaf sibling cycle/", "hdf5/chunk leaf cycle/", "hdf5/chunk leaves in a circle/"),
    # Checkpoints.
    **{
        name: (f"checkpoints/{name}, ",)
        for name in (
            "laughs-set", "prod-of-bigints", "prod-of-tensors", "old-keys", "laughs-tuple-dictkey",
            "laughs-tuple-model-key", "set-add-of-tensors",
        )
    },
    "laughs-storage-key-20": ("checkpoints/key-of-laughs",),
    # YAML, options, paths.
    "yaml binary": ("yaml/binary/",),
    **{
        f"--set {key}=0xff…": (f"options/reproduce --dry-run --set {key}=0xff…",)
        for key in (
            "sources.seeds", "fresh.det", "evaluation", "evaluation.l2", "evaluation.linf", "evaluation.seeds",
            "evaluation.restarts", "honesty.eps",
        )
    },
    "evaluation.seeds=1:1:1:1": ("options/reproduce --dry-run --set evaluation.seeds=1:1:1:1",),
    "--seeds 100000 --dry-run": ("options/reproduce --seeds 100000 --dry-run",),
    "--config cifar10-paper --dry-run": ("options/reproduce --config cifar10-paper --dry-run",),
    "make-dataset --se…": ("options/make-dataset --se",), "long numbers in options": ("options/make-dataset --",),
    **{
        f"{use} fifo.h5": (f"paths/{use} fifo.h5",)
        for use in ("verify", "verify --data", "make-dataset --data", "train --data", "reproduce --data",
            "share --results")
    },
    **{f"{use} a long name": (f"paths/{use} long", ) for use in ("info", "verify", "remake", "share", "evaluate")},
    **{
        f"{use} ~nosuch": (f"paths/{use} tilde",)
        for use in (
            "verify --data", "make-dataset --data", "attack --data", "evaluate --data", "reproduce --data",
            "share --data",
            "remake --data",
        )
    },
    **{f"{use} esc": (f"paths/{use} esc", f"paths/{use} long esc") for use in ("make-dataset --data", "train --data",
            "verify --data", "evaluate --data", "share --data")},
    "evaluate fifo": ("paths/evaluate fifo",), "export ''": ("paths/export nothing", "paths/export a model nothing"),
    "--config ''": ("paths/reproduce --config nothing", "paths/train --config nothing"),
    "--results fifo": ("paths/share --results fifo",),
    # Shared folders.
    "remake of tampered": ("shared/tampered, digest left/remake",),
    "BSD style wrong sum": ("sums/BSD style wrong sum",),
    "SHA256SUMS is a FIFO": ("sums/SHA256SUMS is a FIFO",),
    "results.json: huge int": ("shared/results.json: clean huge-int",),
    "source_pred is partly -1": ("shared/verify of a file whose source_pred is partly -1",),
    # Another user.
    **{
        f"{job}: another user": (f"users/another user, folder not writable/{job}",
            f"users/another user, folder writable, files not/{job}")
        for job in ("train", "make", "reproduce", "share", "remake", "evaluate", "verify", "preview", "attack",
            "transfer")
    },
    # Models.
    **{
        f"record {name}": (f"models/record {name}/",)
        for name in (
            "settings list", "settings text", "accuracy list", "accuracy none", "seconds list", "seconds text",
            "no seconds",
            "train accuracy text", "train accuracy huge", "config list", "config none", "settings training list",
            "seed esc",
            "config data tilde", "origin",
        )
    },
    "weights 1e30": ("models/weights 1e30/",), "weights 0": ("models/weights 0/",),
    # Workers, pictures, base sets, kept files.
    "SIGTERM to a worker": ("workers/SIGTERM to a worker",), "SIGSEGV to a worker": ("workers/SIGSEGV to a worker",),
    **{f"pictures: {name}": (f"pictures/{name}/",) for name in ("class name in latin-1", "class with escape",
            "a FIFO among the pictures", "all 4096x4096 (few KB each)")},
    **{f"base set: {name}": (f"base sets/{name}/", f"base sets/chunk {name}/")
        for name in ("child is itself", "sibling is itself")},
    "base set: gzip bomb": ("base sets/gzip bomb/",),
    **{f"seconds/det.json {name}": (f"kept/seconds {name}/",) for name in ("empty", "number", "deep")},
    **{f"judged {name}": (f"kept/judged {name}/",) for name in ("empty", "half", "list", "number", "binary",
            "empty object", "deep")},
    "models/arithmetic.json deep": ("kept/arithmetic deep/",),
}  # fmt: skip
_BEGINNINGS = tuple(beginning for beginnings in ROWS.values() for beginning in beginnings)


def violations_by_row(runs: Iterable[Mapping[str, Any]]) -> dict[str, int | None]:
    """For each row of the review, how many of its runs had violations; None where none of them has run."""
    found = [(str(run["name"]), bool(run["problems"])) for run in runs]
    counts: dict[str, int | None] = {}
    for row, beginnings in ROWS.items():
        of_row = [bad for name, bad in found if name.startswith(beginnings)]
        counts[row] = sum(of_row) if of_row else None
    return counts


def is_of_review(name: str) -> bool:
    """Whether a case stands for a row of the review."""
    return name.startswith(_BEGINNINGS)
