"""The side-by-side benchmark: every contender does the same work, and what is printed is what was measured."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import peers, racing, scoreboard, side_by_side, subjects
from benchmarks.contenders import OURS, Contender, Featuregen, Row, rows
from featuregen.config.schema import Model
from featuregen.models.classifier import Classifier
from featuregen.models.io import save_model
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec

COUNT = 8
BATCH = 4
ROWS = rows(steps=2, epoch_steps=2)
FORMS = [peer + form for peer in peers.PEERS for form in ("", " frozen")]


def images() -> Tensor:
    return torch.from_numpy(subjects.smooth_images(COUNT))


def labels() -> Tensor:
    return torch.arange(COUNT) % 10


def small(architecture: str = "resnet9") -> Classifier:
    model = build_classifier(Model(architecture, 8), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, seed=0)
    subjects.take_statistics(model, images())
    return model


def enter(name: str) -> Contender:
    if name == "featuregen":
        return Featuregen(small(), ComputeSpec())
    return peers.contender(name, small(), torch.device("cpu"))


def subject(file: Path = Path("unused")) -> racing.Subject:
    return racing.Subject(file, images().numpy(), labels().numpy(), BATCH, COUNT)


def reached(name: str, row_name: str) -> float:
    row, contender = ROWS[row_name], enter(name)
    if row.goal == "features":
        found = contender.invert(row, images()[BATCH:], images()[:BATCH])
    else:
        found = contender.move(row, images()[:BATCH], row.classes(labels()[:BATCH], 10))
    assert not scoreboard.strays(row, found.numpy(), images()[:BATCH].numpy())
    return scoreboard.reached(small(), row, found.numpy(), subject())


@pytest.mark.parametrize("row", ["pgd-l2", "pgd-linf", "det"])
@pytest.mark.parametrize("name", FORMS)
def test_every_peer_reaches_the_same_loss(name: str, row: str) -> None:
    ours = reached("featuregen", row)
    assert reached(name, row) == pytest.approx(ours, rel=1e-3)
    before = scoreboard.reached(small(), ROWS[row], images()[:BATCH].numpy(), subject())
    assert ours > before + 0.05 if ROWS[row].goal == "wrong" else ours < before - 0.05


@pytest.mark.parametrize("name", ["robustness", "robustness frozen"])
def test_the_inversions_agree(name: str) -> None:
    ours = reached("featuregen", "invert")
    assert reached(name, "invert") == pytest.approx(ours, rel=1e-3)
    assert ours < 0.97 * scoreboard.reached(small(), ROWS["invert"], images()[BATCH:].numpy(), subject())


@pytest.mark.parametrize("name", FORMS)
def test_epochs_agree_and_can_be_repeated(name: str) -> None:
    row, weights = ROWS["adversarial-epoch"], small().state_dict()
    ours, theirs = enter("featuregen"), enter(name)
    wanted = ours.learn(row, images(), labels(), BATCH)
    assert theirs.learn(row, images(), labels(), BATCH) == pytest.approx(wanted, rel=1e-3)
    for contender in (ours, theirs):
        assert not torch.equal(contender.model.net.linear.weight, weights["net.linear.weight"])
        contender.restore(weights)
        assert contender.learn(row, images(), labels(), BATCH) == pytest.approx(wanted, rel=1e-3)
    theirs.restore(weights)
    learnt = [parameter.requires_grad for parameter in theirs.model.parameters()]
    assert learnt == [not name.endswith("frozen")] * len(learnt)


def test_only_robustness_inverts_beside_featuregen() -> None:
    everyone = peers.names(peers.PEERS)
    assert len(everyone) == 11 and all(peers.plays(name, ROWS["det"]) for name in everyone)
    inverting = [name for name in everyone if peers.plays(name, ROWS["invert"])]
    assert inverting == [*OURS, "robustness", "robustness frozen"]


def test_ratios_are_taken_within_rounds() -> None:
    seconds = {"featuregen": [1.0, 2.0, 10.0], "foolbox": [3.0, 4.0, 10.0]}
    found = scoreboard.ratios(seconds, ["featuregen"])
    # 3, 2 and 1; the ratio of the medians would be 2 as well, that of the means 1.3.
    assert found == {"featuregen": {"featuregen": 1.0}, "foolbox": {"featuregen": 2.0}}
    assert scoreboard.ratios({"featuregen": [1, 8, 2], "art": [4, 8, 2]}, ["featuregen"])["art"] == {"featuregen": 1}


def made_up(peer: racing.Outcome) -> dict[str, object]:
    """A row in which featuregen found what it does find, and a peer what the test says."""
    found = enter("featuregen").move(ROWS["pgd-l2"], images()[:BATCH], labels()[:BATCH]).numpy()
    ours = racing.Outcome([0.5, 0.25, 1.0], level=2**20, peak=3 * 2**20, result=found)
    known = {
        "matmul": {"featuregen": 1e9, "foolbox": 1e9},
        "flop_per_step": 10**7,
        "built": {"featuregen": 5 * 2**20, "foolbox": None},
    }
    return scoreboard.row_record(small(), ROWS["pgd-l2"], subject(), {"featuregen": ours, "foolbox": peer}, known)


def test_the_table_says_what_was_measured() -> None:
    lazy = racing.Outcome([1.0, 1.0, 2.0], result=images()[:BATCH].numpy())
    record = made_up(lazy)
    head, ours, theirs = (line.split() for line in scoreboard.table("title", record).splitlines()[1:])
    assert head[-3:] == ["built", "MiB", "loss"]
    # 4 images and 2 steps in a median of half a second; 16 times 10 MFLOP of a GFLOP/s.
    assert ours[:8] == ["featuregen", "0.500", "0.250–1.000", "16", "16%", "1.00", "5", "2"]
    assert theirs[:8] == ["foolbox", "1.000", "1.000–2.000", "8", "8%", "2.00", "-", "-"]
    assert theirs[8].endswith("*") and not ours[8].endswith("*"), "images that were never moved are worse"


def test_images_outside_the_ball_are_told() -> None:
    record = made_up(racing.Outcome([1.0] * 3, result=(images()[:BATCH] + 0.02).numpy()))
    assert scoreboard.table("title", record).splitlines()[-1].endswith("!")
    assert not scoreboard.strays(ROWS["invert"], images().numpy(), np.zeros_like(images().numpy()))
    assert scoreboard.strays(ROWS["invert"], images().numpy() - 1, images().numpy())


class Scripted:
    """A worker that needs as long as it is told, and fails in the given lap."""

    def __init__(self, name: str, fails_in: int = -1) -> None:
        self.name, self.laps, self.fails_in = name, 0, fails_in

    def begin(self, row: object) -> int:
        return 7

    def lap(self, row: object) -> racing.Lap:
        self.laps += 1
        if self.laps == self.fails_in:
            raise racing.Failure("out of luck")
        return racing.Lap(float(self.laps), 9, 0.5)


def test_who_fails_is_named_and_the_others_go_on() -> None:
    workers = cast(list[racing.Worker], [Scripted("featuregen"), Scripted("foolbox", 2), Scripted("art")])
    outcomes = racing.race(workers, ROWS["adversarial-epoch"], rounds=3)
    assert outcomes["featuregen"].seconds == outcomes["art"].seconds == [1.0, 2.0, 3.0]
    assert outcomes["foolbox"].failure == "out of luck" and cast(Scripted, workers[1]).laps == 2
    known = {"matmul": {}, "flop_per_step": 1, "built": dict.fromkeys(outcomes)}
    record = scoreboard.row_record(small(), ROWS["adversarial-epoch"], subject(), outcomes, known)
    assert scoreboard.table("title", record).splitlines()[-1] == "foolbox failed: out of luck"
    assert list(record["contenders"]) == ["featuregen", "art"]


def test_memory_is_that_of_the_row() -> None:
    memory = racing.Memory(torch.device("cpu"))
    level = memory.begin()
    if level is None:
        pytest.skip("this system does not tell a process' peak")
    kept = torch.ones(2**24)[:1].clone()
    peak = memory.peak()
    # The kernel counts pages in lots, so the last few of 64 MiB may be missing.
    assert peak is not None and 60 * 2**20 < peak - level < 128 * 2**20
    after, forgotten = memory.begin(), memory.peak()
    assert after is not None and forgotten is not None and kept.item() == 1
    assert after - level < 2**24 and forgotten - after < 2**24


def test_a_worker_answers_from_its_own_process_and_its_end_is_told(tmp_path: Path) -> None:
    save_model(small("convnet"), tmp_path / "model.safetensors")
    worker = racing.Worker("featuregen fp32 direct", subject(tmp_path / "model.safetensors"), torch.device("cpu"))
    try:
        assert worker.about.title == "fp32 direct"
        level, lap = worker.begin(ROWS["det"]), worker.lap(ROWS["det"])
        assert isinstance(lap.result, np.ndarray) and lap.result.shape == (BATCH, 3, 32, 32)
        assert lap.seconds > 0 and (lap.peak is None or lap.peak >= (level or 0) > 0)
        reach = np.linalg.norm((lap.result - images()[:BATCH].numpy()).reshape(BATCH, -1), axis=1)
        assert np.allclose(reach, 0.2, atol=0.05)
        with pytest.raises(racing.Failure, match="AttributeError"):
            worker.lap(cast(Row, "no row"))
        worker._process.kill()
        with pytest.raises(racing.Failure, match="exit code -9"):
            worker.lap(ROWS["det"])
    finally:
        worker.close()


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert side_by_side.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rows", "pgd-l3"], "did you mean 'pgd-l2'?"),
        (["--peers", "foolbx"], "did you mean 'foolbox'?"),
        (["--peers", " , "], "--peers names nothing"),
        (["--models", "resnet10"], "is no architecture"),
        (["--batch", "1"], "give at least 2"),
        (["--batch", "many"], "invalid int value"),
        (["--rounds", "0"], "give at least 1"),
        (["--epoch-images", "16"], "give at least 32"),
        (["--data", "images.h5"], "give a .npz file"),
        (["--data", "none.npz"], "No file none.npz"),
        (["--weights", "nowhere"], "is no folder"),
        (["--device", "abacus"], "is no device"),
        (["--out", "/dev/null/results.json"], "Cannot write /dev/null/results.json"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = words if "--peers" in words else ["--peers", "foolbox", *words]
    assert expected in told(given, capsys)


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.PACKAGES, "art", "no-such-package-here")
    assert "art is not installed: pip install no-such-package-here" in told([], capsys)


def test_weights_of_another_model_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small("convnet"), tmp_path / "resnet9.safetensors")
    assert "holds no resnet9" in told(["--peers", "foolbox", "--weights", str(tmp_path)], capsys)


def test_real_images_and_weights_are_taken_where_given(tmp_path: Path) -> None:
    pixels = (images().permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    numbers = labels().numpy().astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=pixels, y_train=numbers, x_test=pixels, y_test=numbers)
    found, classes_of, classes, said = subjects.read_images(tmp_path / "mine.npz", 6)
    assert torch.equal(torch.from_numpy(found), images()[:6]) and classes_of.tolist() == list(range(6))
    assert classes == 8 and said == "the first 6 training images of mine"
    save_model(small(), tmp_path / "resnet9.safetensors")
    model, said = subjects.ready_model(tmp_path, "resnet9", found, classes)
    assert model.width == 8 and said == "weights of resnet9.safetensors"
    with torch.no_grad():
        assert torch.equal(model(images()), small()(images()))


def test_statistics_are_those_of_the_images() -> None:
    model = small("convnet")
    norm = next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    conv = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    assert norm.momentum == 0.1 and not model.training and norm.running_mean is not None
    with torch.no_grad():
        seen = conv((images() - 0.5) / 0.25).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, seen, atol=1e-5)


def test_the_flop_of_a_step_are_those_of_its_convolutions() -> None:
    model = build_classifier(Model("cw-convnet"), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, seed=0).eval()
    sides: list[int] = []
    layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, out: sides.append(out[0].numel() * layer.weight[0].numel()))
    with torch.no_grad():
        model(images()[:1])
    # A multiplication and an addition each, forward and backward.
    assert scoreboard.flop_per_step(model) == 4 * sum(sides[: len(layers)])


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--models", "convnet", "--peers", "foolbox,robustness", "--batch", "4", "--steps", "2"]
    words += ["--rounds", "2", "--epoch-images", "8"]
    assert side_by_side.main([*words, "--out", str(tmp_path / "all.json")]) == 0
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    measured = record["models"]["convnet"]["rows"]
    assert list(measured) == list(ROWS) and all(f"\n{name}: " in out for name in measured)
    assert set(measured["det"]["contenders"]) >= {"featuregen", "foolbox", "foolbox frozen", "robustness frozen"}
    assert len(measured["pgd-linf"]["contenders"]["foolbox"]["seconds"]) == 2
    assert "foolbox" not in measured["invert"]["contenders"]
    assert not any(one["outside"] for row in measured.values() for one in row["contenders"].values())
    assert record["hardware"]["versions"]["foolbox"] == metadata.version("foolbox")
