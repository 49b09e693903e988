"""Two processes of torchrun on one CPU: datasets made in parts, models trained together, and one of the two killed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.processes import has_rows
from featuregen.errors import UserError
from featuregen.models.io import load_model, read_model_record, weights_sha256
from featuregen.runtime.distributed import (
    SINGLE_PROCESS,
    DistInfo,
    connection_errors_as_user_errors,
    dist_from_env,
    threads_per_process,
)
from featuregen.training.data_parallel import check_same_epoch, rank_rng, rank_seed, sync_bn_copy
from tests.helpers.cli_runs import done, info, model, refused, tiny
from tests.helpers.torchrun_runs import in_proc, stopped_at, together, torchrun
from tests.helpers.torchrun_training import CASES, trained, untrained


def making(out: Path, *more: str | Path) -> list[str | Path]:
    """Eight batches of five rows."""
    words = ("--set", "synthesis.det.batch_size=5", "--out", out, *more)
    return ["make-dataset", "det", "--config", tiny(), *words]


# Sets ----------------------------------------------------------------------------------------------


def test_two_processes_make_the_file_that_one_makes(tmp_path: Path) -> None:
    done(*making(tmp_path / "one" / "it.h5"))
    out = tmp_path / "two" / "it.h5"
    first, second = together(tmp_path, *making(out))
    assert (first.wait(), second.wait()) == (0, 0), first.err + second.err
    assert info(out)["content_sha256"] == info(tmp_path / "one" / "it.h5")["content_sha256"]
    assert {path.name for path in out.parent.iterdir()} == {"it.h5", "it.png", "models"}
    assert len(list((out.parent / "models").iterdir())) == 1
    # Only rank 0 prints.
    assert first.out.splitlines()[-2:] == [str(out), str(out.with_suffix(".png"))] and second.out == ""
    assert first.out.count(str(out)) == 1 and (first.err + second.err).count("training standard model") == 1


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_one_killed_ends_the_other_and_the_same_command_resumes(tmp_path: Path, victim: int) -> None:
    slow = ("--steps", "300", "--source", model("standard"))
    done(*making(tmp_path / "one" / "it.h5", *slow))
    out = tmp_path / "two" / "it.h5"
    journal = out.with_name(f"it.shard-0{victim + 1}-of-02.h5.partial")
    stopped_at(has_rows(journal), victim, *making(out, *slow))
    assert not out.exists()
    ran = torchrun("-m", "featuregen", *making(out, *slow))
    assert ran.returncode == 0, ran.stderr
    assert info(out)["content_sha256"] == info(tmp_path / "one" / "it.h5")["content_sha256"]
    assert {path.name for path in out.parent.iterdir()} == {"it.h5", "it.png"}
    before = out.stat().st_mtime_ns
    again = torchrun("-m", "featuregen", *making(out, *slow))
    assert (again.returncode, again.stdout) == (0, ran.stdout) and out.stat().st_mtime_ns == before


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    out = tmp_path / "o"
    runs = together(tmp_path, *making(out / "it.h5", "--set", "synthesis.det.step=3"))
    assert all(run.wait() != 0 and run.out == "" for run in runs) and not out.exists()
    (told,) = [line for run in runs for line in run.err.splitlines() if re.match(r"(process \d+: )?error: ", line)]
    assert told.startswith("error: ") and "step" in told


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("one_of_two")
def test_what_torchrun_is_not_for_is_refused(tmp_path: Path) -> None:
    assert "info runs in one process; torchrun is for make-dataset" in refused("info", tmp_path / "it.h5")
    assert "leave out --shard 1/3" in refused(*making(tmp_path / "it.h5", "--shard", "1/3"))


# Ranks ----------------------------------------------------------------------------------------


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert dist_from_env() == SINGLE_PROCESS and SINGLE_PROCESS.is_main and SINGLE_PROCESS.rows_of(7) == slice(0, 7)
    assert SINGLE_PROCESS.broadcast_object({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("rank", "count", "local"), [("2", "2", "0"), ("0", "0", "0"), ("x", "2", "0"), ("0", "2", "2")]
)
def test_an_environment_that_cannot_be_is_refused(
    rank: str, count: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"RANK={rank}, WORLD_SIZE={count}"):
        dist_from_env()


@pytest.mark.usefixtures("one_of_two")
def test_processes_share_the_processor_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    # As torchrun sets it where nobody has.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_per_process() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process() == 0


def test_every_row_belongs_to_one_process() -> None:
    parts = [DistInfo(number, 3).rows_of(10) for number in range(3)]
    assert [row for part in parts for row in range(10)[part]] == list(range(10))


def test_a_lost_connection_is_one_sentence_and_other_errors_pass() -> None:
    reason = "[gloo/transport/tcp/pair.cc:545] Connection closed by peer"
    sentence = r"cannot reach each other, as when one has ended .*; what is finished is kept"
    with pytest.raises(UserError, match=sentence), connection_errors_as_user_errors():
        raise RuntimeError(reason)
    with pytest.raises(RuntimeError, match="shapes differ"), connection_errors_as_user_errors():
        raise RuntimeError("shapes differ")


# Models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together")
    ran = torchrun(Path(__file__).parents[1] / "helpers" / "torchrun_training.py", out)
    assert ran.returncode == 0, ran.stderr
    return out


def weights(folder: Path, name: str, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name} {rank}.safetensors")


def read_results(folder: Path, rank: int) -> dict[str, Any]:
    return dict(json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", CASES)
def test_both_processes_end_with_the_same_weights(results: Path, name: str) -> None:
    first, second = (weights(results, name, rank) for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert read_results(results, 0)[name] == read_results(results, 1)[name]


@pytest.mark.parametrize("name", ["one step", "one attacked step", "two mixed steps"])
def test_the_mean_of_both_gradients_is_that_of_one_process(results: Path, name: str) -> None:
    """Plain steps at rate 1, so what weights have changed by is their gradient."""
    begun, (alone, log) = untrained(name).state_dict(), trained(name)
    together, changed = weights(results, name, 0), 0.0
    for key, value in alone.state_dict().items():
        assert (together[key] - value).abs().max() < 1e-5, key
        changed = max(changed, (value - begun[key]).abs().max().item())
    assert changed > 1e-3
    # Loss and accuracy are those of the whole batch.
    assert read_results(results, 0)[name][0][:2] == pytest.approx(
        [log.epochs[0].loss, log.epochs[0].accuracy], abs=1e-5
    )


def test_processes_that_would_resume_from_different_epochs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistInfo, "broadcast_object", lambda self, value: 3)
    check_same_epoch(3, DistInfo(1, 2), "it")
    with pytest.raises(
        UserError, match="process 1 finds 0 epochs to resume from and process 0 finds 3; give all of them"
    ):
        check_same_epoch(0, DistInfo(1, 2), "it")


def test_what_each_process_draws_for_itself_differs() -> None:
    """The units that drop out, and where attacks start."""
    two = DistInfo(0, 2), DistInfo(1, 2)
    assert rank_seed(5, two[0]) == 5 != rank_seed(5, two[1])
    starts = [rank_rng(5, dist).uniform(0, 4).tolist() for dist in two]
    assert starts[0] != starts[1]


def test_early_stopping_is_decided_by_one(results: Path) -> None:
    errors_seen = [epoch[2] for epoch in read_results(results, 0)["batch norm"]]
    assert len(errors_seen) == 3 and all(0 <= error <= 1 for error in errors_seen)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(results: Path) -> None:
    for rank in (0, 1):
        assert "31 images do not fall into 2 equal parts" in read_results(results, rank)["odd"]
        assert "multiple of 2, such as 30" in read_results(results, rank)["odd"]


def test_rank_0_broadcasts_to_all(results: Path) -> None:
    assert [read_results(results, rank)["broadcast"] for rank in (0, 1)] == [{"by": 0}] * 2


def test_the_copy_with_synchronised_batch_norms_shares_all_tensors() -> None:
    network = untrained("batch norm")
    synced = sync_bn_copy(network)
    assert [type(layer) for layer in synced.modules() if "Norm" in type(layer).__name__] == [nn.SyncBatchNorm] * 3
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in network.modules())
    original, copied = network.state_dict(keep_vars=True), synced.state_dict(keep_vars=True)
    assert original.keys() == copied.keys() and all(original[key] is copied[key] for key in original)


@pytest.mark.slow
def test_training_together_is_recorded_and_found_again(tmp_path: Path) -> None:
    words = ("-m", "featuregen", "train", "--robust", "--config", tiny(), "--out", tmp_path / "two.safetensors")
    ran = torchrun(*words)
    assert ran.returncode == 0, ran.stderr
    record = read_model_record(tmp_path / "two.safetensors")["record"]
    assert record["settings"]["processes"] == 2
    assert ran.stdout.splitlines()[-1] == str(tmp_path / "two.safetensors") and ran.stdout.count("robust") == 1
    assert "clean" in record["accuracy"] and len(list((tmp_path / "models").iterdir())) == 1
    again = torchrun(*words)
    assert (again.returncode, again.stdout) == (0, ran.stdout) and "training" not in again.stderr
    done("train", "--robust", "--config", tiny(), "--out", tmp_path / "one.safetensors")
    assert len(list((tmp_path / "models").iterdir())) == 2


def training(out: Path) -> list[str | Path]:
    """Epochs that can be told apart, each of them saved, random starts and an order of its own for each."""
    settings = ("epochs=5", "attack.steps=8", "attack.random_start=true")
    words = ["runtime.save_every=0", *(f"sources.robust.{setting}" for setting in settings)]
    pairs = [part for word in words for part in ("--set", word)]
    return ["train", "--robust", "--config", tiny(), "--out", out, *pairs]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights that two processes come to."""
    out = tmp_path_factory.mktemp("undisturbed") / "it.safetensors"
    ran = torchrun("-m", "featuregen", *training(out))
    assert ran.returncode == 0, ran.stderr
    return digest_of(out)


def digest_of(path: Path) -> str:
    return weights_sha256(load_model(path, torch.device("cpu")))


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_a_training_with_one_process_killed_resumes_to_the_same_weights(
    tmp_path: Path, undisturbed: str, victim: int
) -> None:
    out = tmp_path / "it.safetensors"
    stopped_at(lambda: any(tmp_path.glob("models/*.halfway")), victim, *training(out))
    assert not out.exists()
    ran = torchrun("-m", "featuregen", *training(out))
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"holds [1-4] epochs; resuming from there", ran.stderr)
    assert digest_of(out) == undisturbed
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors"}
