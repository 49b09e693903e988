"""Links, and a person's own files, under the names that commands write to or use for unfinished work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reliability.crafted_case import Case, Place, case
from reliability.crafted_datasets import beside
from reliability.crafted_world import SOURCE

# Written by each command, for links and for a person's own files of that name.
_OUTPUTS: dict[str, tuple[tuple[str, ...], str]] = {
    "preview": (("preview", "a.h5"), "a.png"), "preview-out": (("preview", "a.h5", "--out", "p.png"), "p.png"),
    "npz": (("export", "a.h5", "--format", "npz"), "a.npz"),
    "parquet": (("export", "a.h5", "--format", "parquet"), "a.parquet"),
    "imagefolder": (("export", "a.h5", "--format", "imagefolder"), "a-imagefolder"),
    "madry": (("export", "a.h5", "--format", "madry"), "a-madry"),
    "remake": (("remake", "a.h5", "--source", SOURCE), "a-remade.h5"),
    "share": (("share", "a.h5", "--source", SOURCE), "a-share"),
    "make": (("make-dataset", "det", "--config", "tiny.yaml", "--source", SOURCE, "--out", "o.h5"), "o.h5"),
    "make-preview": (("make-dataset", "det", "--config", "tiny.yaml", "--source", SOURCE, "--out", "o.h5"), "o.png"),
    "train": (("train", "--standard", "--config", "tiny.yaml", "--out", "t.safetensors"), "t.safetensors"),
    "merge": (("merge", "shard-1.h5", "shard-2.h5", "--out", "m.h5"), "m.h5"),
    "attack": (("attack", SOURCE, "--attack", "pgd", "--eps", "0.5", "--rows", "20", "--out", "k.h5"), "k.h5"),
    "attack-picture": (("attack", SOURCE, "--attack", "pgd", "--eps", "0.5", "--rows", "20", "--out", "k.h5"), "k.png"),
    "flips": (("flips", SOURCE, "--eps", "0.1", "--rows", "20", "--attacks", "fgsm", "--out", "f"), "f/flips.json"),
    "flips-csv": (("flips", SOURCE, "--eps", "0.1", "--rows", "20", "--attacks", "fgsm", "--out", "f"), "f/flips.csv"),
    "transfer": (("transfer", "--config", "tiny.yaml", "--models", "convnet:4", "--seeds", "1", "--out", "x"),
        "x/tiny-transfer.json"),
    "evaluate": (("evaluate", "a.h5", "--config", "tiny.yaml", "--out", "e"), "e/models"),
    "import": (("import", "released", "--kind", "det", "--config", "tiny.yaml", "--within", "5", "--out", "i.h5"),
        "i.h5"),
    "reproduce": (("reproduce", "--config", "tiny.yaml", "--out", "r"), "r/tiny/digits-det.h5"),
    "reproduce-results": (("reproduce", "--config", "tiny.yaml", "--out", "r"), "r/tiny/results.json"),
    "reproduce-report": (("reproduce", "--config", "tiny.yaml", "--out", "r"), "r/tiny/report.html"),
}  # fmt: skip
_ENDINGS = (".partial", ".old", ".lock", ".halfway", ".tmp", ".partial.lock", "~", ".bak")


def given(place: Place) -> None:
    beside(place)
    for name in ("det.h5", "shard-1.h5", "released"):
        place.give(name, "a.h5" if name == "det.h5" else "")


def _links() -> Iterator[Case]:
    """A received folder with links: nothing is written through one that the person did not name."""
    for command, (words, output) in _OUTPUTS.items():
        for ending in ("", *_ENDINGS):
            for target in ("file", "nothing", "folder"):
                if target != "file" and ending not in ("", ".partial", ".old"):
                    continue

                def prepare(place: Place, name: str = output + ending, target: str = target) -> None:
                    given(place)
                    outside = place.decoy() if target == "file" else place.outside / "new"
                    if target == "folder":
                        outside.mkdir()
                        (outside / "mine.txt").write_text("mine")
                    place.link(name, outside)

                # Whether an output that is a link is replaced or refused is for the command to say; it is not followed.
                changes = () if ending else (output, f"{output}/*")
                name = f"folders/link {output}{ending or ' itself'} to {target}/{command}"
                yield case(name, words, prepare, may_change=changes)


def _own_files() -> Iterator[Case]:
    """A person's own files and folders under names that a command may want for itself."""
    for command, (words, output) in _OUTPUTS.items():
        for ending in ("", *_ENDINGS):
            for folder in (False, True):

                def prepare(place: Place, name: str = output + ending, folder: bool = folder) -> None:
                    given(place)
                    place.write(f"{name}/mine.txt" if folder else name, "mine\n")

                what = "folder" if folder else "file"
                for force in ((), ("--force",)) if ending in (".old", ".partial") and _forceable(words) else ((),):
                    suffix = " --force" if force else ""
                    yield case(f"folders/own {what} {output}{ending}{suffix}/{command}", (*words, *force), prepare)


def _forceable(words: Sequence[str]) -> bool:
    return words[0] in ("make-dataset", "train", "merge", "attack", "import", "share", "remake", "export", "reproduce")


def by_hand() -> Iterator[Case]:
    yield from _links()
    yield from _own_files()
