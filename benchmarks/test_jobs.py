"""The other benchmarks: they compare like with like, and report what was measured."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import attack_race, cost_growth, end_to_end, fewer_steps, where_time_goes
from benchmarks.processes import resident
from featuregen.config.schema import Model, Synthesis
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import save_model
from featuregen.models.registry import build_classifier

STEEP = Synthesis(steps=24, step_size=1.0, schedule="polyak", momentum=0.9, batch_size=8)


@pytest.fixture(scope="module")
def base() -> BaseDataset:
    return where_time_goes.noise_set(32)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build_classifier(Model("convnet", 8), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, seed=0).eval()


@pytest.fixture
def job(model: Classifier, base: BaseDataset) -> end_to_end.Job:
    return end_to_end.Job(model, base, torch.device("cpu"), batch=8)


def test_both_work_on_the_same_rows_and_the_distance_is_that_of_what_is_stored(job: end_to_end.Job) -> None:
    plan = job.plan(8)
    assert plan.index.tolist() == list(range(8, 16))
    start, aim = (job.base.train.images_tensor(torch.device("cpu"), rows) for rows in (plan.start_index, plan.index))
    with torch.no_grad():
        wanted = job.model.features(aim)
        away = (job.model.features(start) - wanted).norm(dim=1) / wanted.norm(dim=1)
    _, ours = job.ours(8, replace(STEEP, steps=0))
    # One step of robustness is as long as one of ours, and neither leaves its start for another.
    _, theirs = job.theirs(8, 1)
    _, same = job.ours(8, Synthesis(steps=1, step_size=0.1, batch_size=8))
    assert np.allclose(ours, away.numpy(), rtol=1e-5)
    assert np.allclose(theirs, same, rtol=2e-3) and (theirs < ours).all()


def test_the_fewest_steps_are_the_fewest(job: end_to_end.Job) -> None:
    goal = end_to_end.summary(job.ours(0, replace(STEEP, steps=10))[1])
    slack = goal[0] / end_to_end.MARGIN, goal[1] / end_to_end.MARGIN
    assert end_to_end.fewest_steps(job, slack, STEEP).steps == 10


def test_a_goal_out_of_reach_is_said(job: end_to_end.Job) -> None:
    with pytest.raises(UserError, match="24 steps do not reach"):
        end_to_end.fewest_steps(job, (1e-6, 1e-6), STEEP)


def test_the_whole_job(model: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    arrays = {f"x_{part}": draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for part, count in PARTS.items()}
    arrays |= {f"y_{part}": (np.arange(count) % 10).astype(np.uint8) for part, count in PARTS.items()}
    np.savez(tmp_path / "mine.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes the keys for flags
    save_model(model, tmp_path / "source.safetensors")
    words = ["--data", str(tmp_path / "mine.npz"), "--source", str(tmp_path / "source.safetensors")]
    words += ["--images", "16", "--batch", "8", "--steps", "6", "--out", str(tmp_path / "all.json")]
    code = end_to_end.main(words)
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert code == (0 if record["as_near"] and record["ratio"] >= end_to_end.CLAIM else 1)
    ours, theirs = (record["contenders"][name] for name in ("featuregen", "robustness"))
    assert record["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"]) and len(ours["seconds_by_batch"]) == 2
    assert record["as_near"] == (ours["median"] <= theirs["median"] and ours["p95"] <= theirs["p95"])
    assert ours["steps"] > 0 and theirs["steps"] == 6
    assert f"ratio {record['ratio']:.1f}" in capsys.readouterr().out
    assert end_to_end.main([*words, "--images", "20"]) == 2
    assert end_to_end.main([*words, "--images", "40"]) == 2


PARTS = {"train": 32, "test": 10}


def test_the_line_is_the_line() -> None:
    offset, value_and_grad = cost_growth.line([1, 2, 5, 50], [5 + 3 * x for x in (1, 2, 5, 50)])
    assert (offset, value_and_grad) == pytest.approx((5, 3))


def test_what_leaves_the_line_is_told() -> None:
    axis = cost_growth.AXES[0]
    found = {point: [(2 + point.rows / 1000, 100.0)] * 3 for point in axis.points}
    found[axis.points[-1]] = [(1.0, 100.0), (2 * (2 + axis.points[-1].rows / 1000), 100.0), (1e9, 100.0)]
    record = cost_growth.described(axis, found)
    assert record["time"]["median"][-1] == pytest.approx(104) and record["time"]["off"][-1] > 0.1
    assert record["memory"]["slope"] == pytest.approx(0, abs=1e-9) and record["memory"]["offset"] == pytest.approx(100)


@pytest.mark.skipif(resident("VmHWM") is None, reason="this system does not tell a process' peak")
def test_a_point_is_measured_and_drawn(tmp_path: Path) -> None:
    # Earlier tests left this process memory to use again; in one of its own, as the benchmark has it, the peak grows.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(cost_growth.cost, (cost_growth.Point(rows=64, batch=64),))
    assert seconds > 0 and peak > 1
    axis = replace(cost_growth.AXES[2], points=cost_growth.AXES[2].points[:2])
    found = {point: [(seconds, peak + 1)] for point in axis.points}
    cost_growth.plot(tmp_path / "growth.png", [cost_growth.described(axis, found)])
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_time_inside_the_model_is_counted_once(model: Classifier) -> None:
    clock = where_time_goes.Clock()
    x = torch.rand((2, 3, 32, 32), requires_grad=True)
    with clock.watching():
        torch.autograd.grad(model.logits(x).sum(), x)
        counted = dict(clock.seconds)
    torch.autograd.grad(model.logits(x).sum(), x)
    assert min(counted.values()) > 0 and clock.seconds == counted
    found = where_time_goes.shares(lambda: None)
    assert found["forward"] == found["backward"] == 0 and found["outside"] == 1


def test_the_recipes_differ_in_nothing_but_the_walk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kinds", "det", "--seeds", "1", "--folder", str(tmp_path / "made"), "--out", str(tmp_path / "all.json")]
    tiny = ["synthesis.det.rows=64", "sources.standard.epochs=1", "sources.robust.epochs=1", "fresh.det.epochs=1"]
    assert fewer_steps.main(words + [word for each in tiny for word in ("--set", each)]) == 0
    rows = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["what"], row["recipe"], row["steps"]) for row in rows] == [
        ("det", "paper", 100),
        ("det", "fast", 30),
        ("adversarial training", "paper", 7),
        ("adversarial training", "fast", 3),
    ]
    assert all(len(row["accuracy"]["l2 0.6"]) == 1 and row["seconds"] > 0 for row in rows)
    assert "det                  paper   100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"), [(["--kinds", "dett"], "did you mean 'det'?"), (["--config", "none"], "none")]
)
def test_mistakes_are_told(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fewer_steps.main(words) == 2
    assert expected in capsys.readouterr().err


# The race of attacks -------------------------------------------------------------------------------


def test_attacks_are_raced_and_written_down(
    standard: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(standard, tmp_path / "mine.safetensors")
    words = [str(tmp_path / "mine.safetensors"), "--rows", "20", "--few", "4", "--batch", "16", "--laps", "2"]
    words += ["--pairs", "pgd-l2,smallest-linf,pixels", "--steps", "3", "--walk", "20", "--population", "9"]
    words += ["--members", "9"]
    code = attack_race.main([*words, "--generations", "1", "--out", str(tmp_path / "all.json")])
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert code in (0, 1) and list(record["pairs"]) == ["pgd-l2", "smallest-linf", "pixels"]
    pgd = record["pairs"]["pgd-l2"]["contenders"]
    assert set(pgd) == {"featuregen", "foolbox", "torchattacks", "art"} and pgd["featuregen"]["ratio"] == 1
    assert 0 < pgd["featuregen"]["success"] == pgd["foolbox"]["success"] < 1
    assert all(len(one["seconds"]) == 2 and one["ms_per_image"] > 0 and not one["outside"] for one in pgd.values())
    norms = {name: one["median"] for name, one in record["pairs"]["smallest-linf"]["contenders"].items()}
    assert 0.02 < norms["featuregen"] < 1.1 * norms["foolbox FMN"] < 0.3
    assert record["pairs"]["pixels"]["images"] == 4 and "torchattacks" in record["pairs"]["pixels"]["contenders"]
    assert "mine.safetensors" in record["command"] and str(tmp_path) not in json.dumps(record)
    assert record["hardware"]["versions"]["torchattacks"] in capsys.readouterr().out
    assert not standard.training and all(parameter.requires_grad for parameter in standard.parameters())


def test_some_peers_can_be_left_out(standard: Classifier, tmp_path: Path) -> None:
    save_model(standard, tmp_path / "mine.safetensors")
    words = [str(tmp_path / "mine.safetensors"), "--rows", "10", "--laps", "1", "--pairs", "fgsm-linf,smallest-linf"]
    attack_race.main([*words, "--walk", "5", "--peers", "foolbox", "--out", str(tmp_path / "some.json")])
    raced = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))["pairs"]
    assert list(raced["fgsm-linf"]["contenders"]) == ["featuregen", "foolbox"]
    assert set(raced["smallest-linf"]["contenders"]) == {"featuregen", "foolbox FMN", "foolbox DeepFool"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pairs", "fgsm-l3"], "did you mean 'fgsm-l2'?"),
        (["--peers", "foolbix"], "did you mean 'foolbox'?"),
        (["--rows", "1"], "give at least 2"),
        (["--steps", "0"], "give more than 0"),
        (["--data", "none.npz"], "none.npz"),
        (["--rows", "5000"], "has 359 test images"),
    ],
)
def test_a_race_that_cannot_be_run_is_refused(
    words: list[str], expected: str, standard: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(standard, tmp_path / "mine.safetensors")
    assert attack_race.main([str(tmp_path / "mine.safetensors"), *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_race_on_images_of_another_size_is_refused(
    model: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, tmp_path / "large.safetensors")
    assert attack_race.main([str(tmp_path / "large.safetensors")]) == 2
    assert "give the images it was trained on" in capsys.readouterr().err
