"""The Python blocks of the README and of the pages: every block is run, here or by the test of its page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import featuregen as fg
from featuregen.models.classifier import Classifier
from tests.helpers.cli_runs import model
from tests.helpers.image_files import make_arrays, save

ROOT = Path(__file__).parents[2]
# What is tested is that the calls work together, not how well a model learns.
SHORTER = [
    "sources.standard.epochs=1",
    "sources.robust.epochs=1",
    "synthesis.det.steps=2",
    "synthesis.robust.steps=2",
    "fresh.det.epochs=1",
    "evaluation.steps=1",
]
# Pages whose own tests run their blocks.
TESTED_ELSEWHERE = {"docs/format.md", "docs/sharing.md", "docs/how-to/extend.md"}
# By page, the comment above each block that cannot run here. The page has the same comment in its source.
NOT_RUN: dict[str, list[str]] = {}
OVERRIDES = 'overrides=["synthesis.det.eps=1.0"]'


def blocks(page: str) -> list[tuple[str, str]]:
    """The code of every Python block, and the reason in `<!-- not run: reason -->` above it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        (code, reason)
        for reason, code in re.findall(r"(?:<!-- not run: (.+) -->\n)?^```python\n(.*?)^```$", text, re.DOTALL | re.M)
    ]


def pages() -> list[str]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [name for path in paths if blocks(name := path.relative_to(ROOT).as_posix())]


def shortened(code: str) -> str:
    more = "".join(f', "{override}"' for override in SHORTER)
    return code.replace(OVERRIDES, f"{OVERRIDES[:-1]}{more}]")


def nothing() -> None:
    """The blocks need no file."""


def finished_experiment() -> None:
    """The dataset that `featuregen reproduce` leaves."""
    fg.Experiment("digits", out="datasets_out/digits", overrides=SHORTER).make_dataset("robust")


def saved_model() -> None:
    shutil.copy(model("robust"), "robust.safetensors")


def own_images() -> None:
    save(Path("my.npz"), make_arrays(rows=60, shape=(28, 28, 1), classes=10))


PREPARED: dict[str, Callable[[], None]] = {
    "README.md": nothing,
    "docs/how-to/attack.md": nothing,
    "docs/how-to/own-images.md": own_images,
    "docs/how-to/own-model.md": saved_model,
    "docs/index.md": finished_experiment,
}


@pytest.mark.parametrize("page", PREPARED)
def test_every_block_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standard: Classifier, few: Tensor, truth: Tensor
) -> None:
    monkeypatch.chdir(tmp_path)
    PREPARED[page]()
    # The pages say what these three are.
    names: dict[str, Any] = {"model": standard, "images": few, "labels": truth}
    for code, reason in blocks(page):
        if not reason:
            exec(compile(shortened(code), page, "exec"), names)


def test_no_page_is_missed() -> None:
    assert set(pages()) == PREPARED.keys() | TESTED_ELSEWHERE
    marked = {page: [reason for _, reason in blocks(page) if reason] for page in pages()}
    assert {page: reasons for page, reasons in marked.items() if reasons} == NOT_RUN


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_block_is_shortened(page: str) -> None:
    assert SHORTER[0] in shortened(blocks(page)[0][0])
