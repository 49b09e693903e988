"""The preview beside a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from featuregen.config.loader import load_config
from featuregen.experiment import outputs
from featuregen.experiment.experiment import Experiment
from featuregen.storage.torch_dataset import FeatureDataset
from tests.helpers.cli_runs import dataset, tiny


def test_a_preview_opens_its_dataset_as_often_for_ten_rows_as_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = h5py.File.__init__

    def counting(self: h5py.File, name: Any, *args: Any, **settings: Any) -> None:
        opened.append(name)
        original(self, name, *args, **settings)

    path = dataset("det")
    experiment = Experiment(load_config(str(tiny())), tmp_path)
    monkeypatch.setattr(h5py.File, "__init__", counting)
    counts = []
    for rows in (2, 10):
        monkeypatch.setattr(outputs, "SHOWN", rows)
        outputs.draw_preview(experiment, FeatureDataset(path), tmp_path / "det.png")
        counts.append(opened.count(path))
        opened.clear()
    assert counts[0] == counts[1] <= 2
