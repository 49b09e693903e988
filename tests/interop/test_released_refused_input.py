"""What is no release of the authors is refused in one sentence before any work."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from featuregen.errors import UserError
from featuregen.interop import released
from tests.helpers.cli_runs import refused
from tests.helpers.dataset_files import one_sentence
from tests.helpers.released_files import CLASSES, ROWS, SHAPE, base, batches, labels_of, near, release

Spoil = Callable[[Path], Any]


def put(name: str, content: Any) -> Spoil:
    return lambda folder: torch.save(content() if callable(content) else content, folder / name)


def ims(change: Callable[[Tensor], Any]) -> Spoil:
    return lambda folder: torch.save(change(near(range(ROWS))), folder / "CIFAR_ims")


def lab(change: Callable[[Tensor], Any]) -> Spoil:
    return lambda folder: torch.save(change(labels_of("det", range(ROWS))), folder / "CIFAR_lab")


def first(value: float) -> Callable[[Tensor], Any]:
    def changed(whole: Tensor) -> list[Tensor]:
        whole.view(-1)[40 % whole.numel()] = value
        return batches(whole)

    return changed


def cut(name: str, share: float) -> Spoil:
    def shortened(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return shortened


class Evil:
    def __reduce__(self) -> Any:
        return print, ("hello",)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "CIFAR_ims").unlink(), "no CIFAR_ims beside"),
        (lambda folder: (folder / "CIFAR_lab").unlink(), "no CIFAR_lab beside"),
        (lambda folder: [(folder / name).unlink() for name in ("CIFAR_ims", "CIFAR_lab")], "neither"),
        (cut("CIFAR_ims", 0.7), "CIFAR_ims"),
        (cut("CIFAR_lab", 0.7), "CIFAR_lab"),
        (cut("CIFAR_ims", 0), "CIFAR_ims"),
        (lambda folder: (folder / "CIFAR_ims").write_bytes(pickle.dumps(Evil())), "CIFAR_ims"),
        (put("CIFAR_ims", Evil), "print"),
        (put("CIFAR_ims", lambda: {"images": torch.zeros(3)}), "dict"),
        (put("CIFAR_ims", lambda: [[0.5]]), "list"),
        (put("CIFAR_ims", lambda: []), "nothing"),
        (put("CIFAR_ims", lambda: torch.zeros(0, *SHAPE)), "nothing"),
        (ims(lambda whole: batches(whole)[:-1]), "28 images and CIFAR_lab 30 labels"),
        (lab(lambda whole: whole[:-1]), "30 images and CIFAR_lab 29 labels"),
        (ims(lambda whole: [whole[:7], whole[7:, :, :3]]), "batch 1 has shape (23, 3, 3, 5) and batch 0 (7, 3, 4, 5)"),
        (ims(lambda whole: whole[0]), "(3, 4, 5)"),
        (ims(lambda whole: whole.permute(0, 2, 3, 1)), "(4, 5, 3)"),
        (ims(lambda whole: whole[:, :1].clone()), "those of toy are (3, 4, 5)"),
        (ims(lambda whole: [whole[:9], whole[9:].half()]), "different types"),
        (ims(lambda whole: whole.double()), "float64"),
        (ims(lambda whole: (255 * whole).long()), "int64"),
        (ims(lambda whole: 255 * whole), "[0, 1]"),
        (ims(lambda whole: whole[:1].clone().expand(ROWS, *SHAPE)), "storage"),
        (ims(lambda whole: [whole.clone()] * 2), "more values than it holds"),
        (ims(first(float("nan"))), "batch 0"),
        (ims(first(float("inf"))), "batch 0"),
        (ims(first(1.01)), "1.01"),
        (ims(first(-0.01)), "-0.01"),
        (lab(lambda whole: whole.float()), "float32"),
        (lab(lambda whole: whole > 1), "bool"),
        (lab(lambda whole: whole[:, None]), "(30, 1)"),
        (lab(first(-1)), "the label -1"),
        (lab(first(CLASSES)), "the label 3, and toy has the classes 0 to 2"),
    ],
)
def test_what_is_no_release(tmp_path: Path, spoil: Spoil, why: str) -> None:
    folder = release(tmp_path / "a", batches(near(range(ROWS))), batches(labels_of("det", range(ROWS))))
    spoil(folder)
    with pytest.raises(UserError) as caught:
        released.import_released(folder, "det", base(), tmp_path / "det.h5")
    message = one_sentence(caught)
    assert why in message and str(folder) in message
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "nothing is begun"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("import nowhere --kind det", "nowhere is no folder"),
        ("import . --kind det", "one of the folders in it: a"),
        ("import a", "--kind"),
        ("import a --kind dat", "'det'"),
        ("import a --kind det --dtype int8", "'uint8'"),
        ("import a --kind det --data digits", "(1, 8, 8)"),
        ("import a --kind det --data digit", "did you mean 'digits'"),
        ("import a --kind det --data digits --within 0", "L2 distance"),
        ("import a --kind det --data digits --within nan", "L2 distance"),
        ("import a --kind det --data digits --out it.npz", ".h5"),
    ],
)
def test_wrong_words(tmp_path: Path, words: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    release(tmp_path / "a", near(range(ROWS)), labels_of("det", range(ROWS)))
    assert why in refused(*words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_unknown_kind_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'det'"):
        released.import_released(tmp_path, "dett", base(), tmp_path / "a.h5")
