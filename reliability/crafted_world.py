"""Small valid files of every kind, made by the checkout under test through its own commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from featuregen.errors import UserError
from reliability.crafted_case import Place, Step
from reliability.crafted_runner import Server

CONFIG = """
name: tiny
model: {architecture: convnet, width: 4}
runtime: {device: cpu, precision: fp32, convolution: direct, threads: 1, jobs: 1}
sources:
  standard: {epochs: 1, batch_size: 64, lr: 0.1}
  robust: {epochs: 1, batch_size: 64, lr: 0.1, attack: {norm: l2, eps: 0.5, steps: 1}}
synthesis:
  robust: &features {steps: 2, step_size: 0.3, batch_size: 64, rows: 40}
  det: &classes {steps: 2, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 64, rows: 40}
  rand: *classes
fresh:
  robust: &fresh {epochs: 1, batch_size: 20, lr: 0.1}
  det: *fresh
evaluation: {seeds: 1, l2: [0.5], headline: 0.5, linf: [0.1], steps: 2, rows: 50}
honesty: {eps: [1.0], rows: 30}
"""
SOURCE = "standard.safetensors"
ATTACK = ("--attack", "pgd", "--eps", "0.5", "--rows", "30", "--set", "steps=2")


def make_world(server: Server, folder: Path) -> Path:
    """The folder `world` with everything that cases start from; made once per checkout."""
    world, ready = folder / "world", folder / "world.ready"
    if ready.exists():
        return world
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    (world / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    (world / "workers.yaml").write_text(CONFIG.replace("jobs: 1", "jobs: 2"), encoding="utf-8")
    np.savez(world / "set.npz", allow_pickle=False, **arrays())
    pictures(world / "pictures")
    det = ["make-dataset", "det", "--config", "tiny.yaml", "--source", SOURCE]
    for words in (
        ["train", "--standard", "--config", "tiny.yaml", "--out", SOURCE],
        ["train", "--robust", "--config", "tiny.yaml", "--out", "adversarial.safetensors"],
        [*det, "--out", "det.h5"],
        [
            "make-dataset",
            "robust",
            "--config",
            "tiny.yaml",
            "--source",
            "adversarial.safetensors",
            "--out",
            "robust.h5",
        ],
        [*det, "--set", "synthesis.det.batch_size=20", "--shard", "1/2", "--out", "shard-1.h5"],
        [*det, "--set", "synthesis.det.batch_size=20", "--shard", "2/2", "--out", "shard-2.h5"],
        ["attack", SOURCE, *ATTACK, "--out", "attacked.h5"],
        ["export", "det.h5", "--format", "madry", "--out", "released"],
        ["share", "det.h5", "--source", SOURCE, "--out", "share"],
        ["reproduce", "--config", "tiny.yaml", "--out", "run"],
        ["make-dataset", "det", "--config", "tiny.yaml", "--data", "set.npz", "--out", "own/own-det.h5"],
    ):
        _made(server, world, words)
    # The command adds its number to the name of a shard.
    for number in (1, 2):
        (made,) = world.glob(f"shard-{number}*.h5")
        made.rename(world / f"shard-{number}.h5")
    evaluation = _made(server, world, ["evaluate", "det.h5", "--out", "evaluated", "--json"])
    (world / "evaluation.json").write_text(evaluation, encoding="utf-8")
    json.loads(evaluation)
    ready.touch()
    return world


def _made(server: Server, world: Path, words: list[str]) -> str:
    home = world.parent / "home"
    home.mkdir(exist_ok=True)
    run = server.run(Step(words), Place(world, home, home, world), world.parent, timeout=600)
    if run.code:
        raise UserError(f"The checkout could not make an input with {' '.join(words)}: {run.last_line}")
    return run.text


def arrays(rows: int = 60, size: int = 8) -> dict[str, np.ndarray]:
    draw, found = np.random.default_rng(0), {}
    for part in ("train", "test"):
        found[f"x_{part}"] = draw.integers(0, 256, (rows, size, size, 3), np.uint8)
        found[f"y_{part}"] = (np.arange(rows) % 3).astype(np.uint8)
    return found


def pictures(folder: Path) -> None:
    """An image folder: two classes, twelve pictures for training and eight for testing."""
    draw = np.random.default_rng(1)
    for part, count in (("train", 12), ("test", 8)):
        for number in range(count):
            path = folder / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
