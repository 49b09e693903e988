"""Batches that fit memory, and what happens when memory runs out all the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featuregen.compute.autotune
import featuregen.synthesis.generate
from featuregen import Experiment, load_config
from featuregen.compute.autotune import fitting_batch
from featuregen.compute.folding import folded_copy
from featuregen.config.schema import Model, Synthesis
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError, out_of_memory
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec, free_memory
from featuregen.storage.reader import read_columns, read_info
from featuregen.synthesis.generate import make_plan, synthesize

DET = Synthesis(steps=2, step_size=0.3, norm="l2", eps=1.25, batch_size=16)


def run_out_above(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Have a batch of more than `most` images fail the way CUDA does; returns the sizes tried."""
    tried: list[int] = []
    real = featuregen.synthesis.generate._synthesize_batch

    def short(*args: Any) -> Any:
        tried.append(len(args[6]))
        if len(args[6]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(*args)

    monkeypatch.setattr(featuregen.synthesis.generate, "_synthesize_batch", short)
    return tried


def rows_of(base: BaseDataset, model: Classifier, recipe: Synthesis, rows: int) -> dict[str, Any]:
    plan = make_plan("det", base.train.labels, np.arange(rows), 10, 0)
    parts = list(synthesize("det", recipe, model, base.train, plan, seed=0, compute=ComputeSpec()))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_batch_is_halved_and_nothing_is_lost(
    digits: BaseDataset, standard: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = rows_of(digits, standard, replace(DET, dtype="float32"), 40)
    tried = run_out_above(monkeypatch, 6)
    columns = rows_of(digits, standard, replace(DET, dtype="float32"), 40)
    # Once too large is enough: later batches start at what went well.
    assert tried == [16, 8, *[4] * 10]
    assert np.array_equal(columns["index"], whole["index"]) and np.array_equal(columns["labels"], whole["labels"])
    assert np.abs(columns["images"] - whole["images"]).max() < 1e-4
    assert "memory ran out with 16 images at once; going on with 8" in capsys.readouterr().err


def test_no_room_for_one_image_is_said(
    digits: BaseDataset, standard: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_above(monkeypatch, 0)
    with pytest.raises(UserError, match="a single image at a time; choose a smaller model"):
        rows_of(digits, standard, DET, 4)


def test_other_failures_are_not_taken_for_memory(
    digits: BaseDataset, standard: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(featuregen.synthesis.generate, "_synthesize_batch", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        rows_of(digits, standard, DET, 4)


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_running_out(error: Exception, yes: bool) -> None:
    assert out_of_memory(error) is yes


def test_torch_on_this_cpu_fails_with_words_that_count() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)


def test_a_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    net = folded_copy(build_classifier(Model("resnet9", 8), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, 0), ComputeSpec())
    assert fitting_batch(net, 64) == 64
    assert not capsys.readouterr().err
    each = featuregen.compute.autotune.bytes_per_image(net)
    # At the very least the output of each of its convolutions.
    assert each > 4 * (8 * 1024 + 16 * 1024)
    monkeypatch.setattr(featuregen.compute.autotune, "free_memory", lambda device: 3 * each * 20)
    assert fitting_batch(net, 64) == 16
    assert "16 images at once instead of 64" in capsys.readouterr().err
    monkeypatch.setattr(featuregen.compute.autotune, "free_memory", lambda device: 0)
    assert fitting_batch(net, 64) == 1


def test_free_memory_is_less_than_the_machine_has() -> None:
    free = free_memory(torch.device("cpu"))
    assert 2**26 < free < 2**50


SMALL = """
name: small
seed: 3
model: {width: 6}
runtime: {device: cpu, precision: fp32, convolution: direct}
sources: {standard: {epochs: 1}, robust: {epochs: 1, attack: {eps: 0.5, steps: 1}}}
synthesis: {det: {steps: 2, step_size: 0.3, norm: l2, eps: 1.25, batch_size: 16}}
"""


def shop_in(folder: Path) -> Experiment:
    config = folder / "small.yaml"
    config.write_text(SMALL, encoding="utf-8")
    return Experiment(load_config(str(config), ["synthesis.det.rows=40"]), folder)


def test_a_file_says_that_its_batches_shrank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = shop_in(tmp_path)
    even = experiment.make_dataset("det", tmp_path / "even.h5").info
    assert even.software["batch"] == "16"
    run_out_above(monkeypatch, 8)
    shrunk = experiment.make_dataset("det", tmp_path / "shrunk.h5").info
    assert re.fullmatch(r"8|16, later 8.*bytes", shrunk.software["batch"])
    columns = [read_columns(info.path, ["labels", "index"]) for info in (even, shrunk)]
    assert np.array_equal(columns[0]["labels"], columns[1]["labels"])
    assert json.loads(json.dumps(dict(read_info(shrunk.path).recipe)))["synthesis"]["batch_size"] == 16


def test_a_later_shrinking_is_named_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run is stopped after a whole batch and two halves; the second goes on as if memory were there."""
    experiment, path = shop_in(tmp_path), tmp_path / "set.h5"
    real, calls = featuregen.synthesis.generate._synthesize_batch, 0

    def short(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        if calls == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(featuregen.synthesis.generate, "_synthesize_batch", short)
    with pytest.raises(KeyboardInterrupt):
        experiment.make_dataset("det", path)
    monkeypatch.setattr(featuregen.synthesis.generate, "_synthesize_batch", real)
    info = experiment.make_dataset("det", path).info
    assert info.rows == 40
    assert info.software["batch"] == ("16, later 8, since memory ran out: made again, images may differ in their bytes")
    assert read_columns(path, ["index"])["index"].tolist() == experiment.row_plan("det", 40).index.tolist()
