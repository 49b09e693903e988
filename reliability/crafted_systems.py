"""Odd systems: another user, no home, no standard output, Python's own switches; and odd sets of shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import h5py

from reliability.crafted_accidents import ALWAYS, JOBS
from reliability.crafted_case import ANY, FINE_OR_REFUSED, ONLY_REFUSED, Case, Place, Step, case
from reliability.crafted_datasets import edited, set_rows, set_text
from reliability.crafted_world import SOURCE

_NOBODY = 65534
_SWITCH = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
_READS: dict[str, tuple[str, ...]] = {
    "verify": ("verify", "det.h5"), "info": ("info", "det.h5"), "preview": JOBS["preview"], "models": ("models",),
    "dry-run": ("reproduce", "--config", "tiny.yaml", "--dry-run"),
}  # fmt: skip


def _needs(place: Place) -> None:
    for name in ("tiny.yaml", SOURCE, "det.h5", "shard-1.h5", "shard-2.h5", "released"):
        place.give(name)


# Another user --------------------------------------------------------------------------------------


def _users() -> Iterator[Case]:
    if os.getuid():
        return

    def open_way(place: Place) -> None:
        """The folders above must let another user pass."""
        for folder in (place.work.parent, place.work.parent.parent):
            folder.chmod(0o755)

    def not_writable(place: Place) -> None:
        _needs(place)
        open_way(place)

    def files_not(place: Place) -> None:
        _needs(place)
        open_way(place)
        place.work.chmod(0o777)
        place.home.chmod(0o777)
        for name in ("o.h5", "t.safetensors", "a.png"):
            place.write(name, "mine")

    def own_models(place: Place) -> None:
        files_not(place)
        for folder in ("models", "datasets_out", "out"):
            (place.work / folder).mkdir()

    for job, words in (JOBS | _READS).items():
        for name, prepare in {
            "folder not writable": not_writable,
            "folder writable, files not": files_not,
            "models not writable": own_models,
        }.items():
            step = Step(words, ANY, process=True, prefix=_SWITCH)
            yield Case(f"users/another user, {name}/{job}", (step,), prepare)


# Environments --------------------------------------------------------------------------------------

_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "no HOME": {"unset": ("HOME",)}, "HOME is nowhere": {"environment": {"HOME": "/nonexistent/x"}},
    "HOME is empty": {"environment": {"HOME": ""}},
    "no HOME, no user": {"unset": ("HOME", "USER", "LOGNAME"), "environment": {"USER": ""}},
    "python -O": {"flags": ("-O",)}, "python -OO": {"flags": ("-OO",)},
    "closed stdout": {"closed": (1,)}, "closed stderr": {"closed": (2,)},
    "closed stdout and stderr": {"closed": (1, 2)}, "closed stdin": {"closed": (0,)},
    "all closed": {"closed": (0, 1, 2)}, "ascii": {"environment": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C",
            "PYTHONUTF8": "0"}},
    "latin-1": {"environment": {"PYTHONIOENCODING": "latin-1"}},
    "no such locale": {"environment": {"LC_ALL": "xx_XX.nosuch", "LANG": "xx"}},
    "one column": {"environment": {"COLUMNS": "1", "TERM": "dumb"}},
    "TMPDIR is nowhere": {"environment": {"TMPDIR": "/nonexistent", "TMP": "/nonexistent"}},
    "odd threads": {"environment": {"OMP_NUM_THREADS": "abc"}}, "no threads": {"environment": {"OMP_NUM_THREADS": "0"}},
    "odd rank": {"environment": {"RANK": "x", "LOCAL_RANK": "y", "WORLD_SIZE": "z"}},
    "640 digits": {"environment": {"PYTHONINTMAXSTRDIGITS": "640"}}, "no PATH": {"environment": {"PATH": ""}},
    "python -W error": {"flags": ("-W", "error::UserWarning")},
    "python -I -B": {"flags": ("-B",)}, "a full stdout": {"prefix": ("sh", "-c", '"$@" > /dev/full', "sh")},
    "a closed pipe": {"prefix": ("sh", "-c", '"$@" | true', "sh")},
    "umask 777": {"prefix": ("sh", "-c", 'umask 077; "$@"', "sh")},
}  # fmt: skip


def _environments() -> Iterator[Case]:
    jobs = {
        name: words
        for name, words in (JOBS | _READS).items()
        if name in ("make", "verify", "info", "preview", "share", "dry-run", "models", "train")
    }
    for name, how in _ENVIRONMENTS.items():
        for job, words in jobs.items():
            # Without a stream that can be written to, how a command ends is all it can say.
            quiet = name.startswith(("closed", "all closed", "a full", "a closed pipe", "odd rank"))
            step = Step(words, ANY | {1, 120, 141} if quiet else ALWAYS, process=True, **how)
            yield Case(f"systems/{name}/{job}", (step,), _needs)

    gone = Step(
        ("info", "det.h5"),
        ANY,
        process=True,
        prefix=("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"),
    )
    for words in (("info", "det.h5"), ("models",), JOBS["make"], ("evaluate", "x.h5"), ("reproduce", "--dry-run")):
        yield Case(
            f"systems/the folder is gone/{words[0]}", (Step(words, ANY, process=True, prefix=gone.prefix),), _needs
        )


# Shards --------------------------------------------------------------------------------------------


def _shards() -> Iterator[Case]:
    merge = ("merge", "shard-1.h5", "shard-2.h5", "--out", "m.h5")
    for name, words in {
        "one alone": ("merge", "shard-1.h5", "--out", "m.h5"),
        "one twice": ("merge", "shard-1.h5", "shard-1.h5", "--out", "m.h5"),
        "and the whole": ("merge", "shard-1.h5", "det.h5", "--out", "m.h5"),
        "three": (*merge[:3], "shard-1.h5", "--out", "m.h5"),
        "onto itself": ("merge", "shard-1.h5", "shard-2.h5", "--out", "shard-1.h5"),
        "and a model": ("merge", "shard-1.h5", SOURCE, "--out", "m.h5"),
    }.items():  # fmt: skip
        yield case(f"shards/{name}/merge", words, _needs, ONLY_REFUSED)
    yield case(
        "shards/onto itself, --force/merge",
        (*merge[:3], "--out", "shard-1.h5", "--force"),
        _needs,
        ANY,
        may_change=("shard-*.h5",),
    )
    yield case("shards/--remove/merge", (*merge, "--remove"), _needs, frozenset({0}), may_change=("shard-*.h5",))
    for name, text in {
        "number huge": '{"number": ' + "9" * 400 + "}", "number list": '{"number": [1]}', "of none": '{"of": null}',
        "rows text": '{"rows": "40"}', "rows 1e12": '{"rows": 1000000000000}',
        "first negative": '{"first": -20}', "first nan": '{"first": NaN}', "number zero": '{"number": 0}',
        "of 2^31": '{"of": 2147483648}', "esc": '{"of": "\\u001b[2J"}',
        "overlapping": '{"first": 10}', "float": '{"number": 1.5}', "true": '{"number": true}',
        "other count": '{"of": 3}',
    }.items():  # fmt: skip
        for command, words in {
            "merge": merge,
            "merge-other": ("merge", "shard-2.h5", "shard-1.h5", "--out", "m.h5"),
            "info": ("info", "shard-1.h5"),
            "verify": ("verify", "shard-1.h5"),
            "remake": ("remake", "shard-1.h5", "--source", SOURCE),
        }.items():

            def prepare(place: Place, text: str = text) -> None:
                _needs(place)
                edited(place, "shard-1.h5", _shard_edit(text), "shard-1.h5")

            yield case(f"shards/{name}/{command}", words, prepare)
    for name, edit in {
        "other classes": set_text("classes", '["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]'),
        "other kind": set_text("kind", "rand"), "rows of the other": set_rows("index", slice(0, 5), 3),
        "other base": set_text("base", '{"name": "digits", "sha256": "00", "rows": 1438}'),
        "other software": set_text("software", "{}"), "software list": set_text("software", "[]"),
    }.items():  # fmt: skip

        def other(place: Place, edit: Callable[[h5py.File], object] = edit) -> None:
            _needs(place)
            edited(place, "shard-2.h5", edit, "shard-2.h5")

        yield case(f"shards/{name}/merge", merge, other, FINE_OR_REFUSED)


def _shard_edit(text: str) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        import json

        recipe = json.loads(file.attrs["recipe"])
        inner = text[1:-1]
        key = json.loads("{" + inner.split(":")[0] + ": 0}")
        (name,) = key
        recipe["shard"][name] = "@@"
        set_text("recipe", json.dumps(recipe).replace('"@@"', inner.split(":", 1)[1].strip()))(file)

    return edit


def by_hand() -> Iterator[Case]:
    yield from _users()
    yield from _environments()
    yield from _shards()
