"""The machine and its random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featuregen.errors import UserError
from featuregen.runtime import RowRandom, autocast, progress, resolve_device

CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


# Random numbers


def test_values_are_pinned() -> None:
    """Every dataset's targets, starts and noise come from here: these numbers may never change."""
    random = RowRandom(7, "targets")
    assert random.integers(range(8), 10).tolist() == [4, 2, 7, 1, 4, 4, 5, 7]
    assert random.uniform(3, 2).tolist() == [0.5354711482288144, 0.6954558918175318]
    assert random.normal(3, 3) == pytest.approx(
        [0.6029801417898506, 1.2816453782232105, -1.0816090637121893], rel=1e-12
    )
    assert random.permutation(0, 8).tolist() == [0, 5, 1, 6, 7, 4, 3, 2]


def test_rows_do_not_depend_on_their_batch() -> None:
    whole = RowRandom(0, "targets").integers(range(100), 1000)
    parts = [RowRandom(0, "targets").integers(rows, 1000) for rows in (range(37), [37], range(38, 100))]
    assert np.array_equal(whole, np.concatenate(parts))
    shuffled = np.random.default_rng(0).permutation(100)
    assert np.array_equal(whole[shuffled], RowRandom(0, "targets").integers(shuffled, 1000))


def test_a_draw_leaves_no_trace() -> None:
    random = RowRandom(0, "noise")
    first = random.normal(5, 10)
    random.uniform(4, 1000)
    np.random.seed(0)
    torch.manual_seed(0)
    assert np.array_equal(first, random.normal(5, 10))
    state = torch.get_rng_state()
    random.torch_generator(5, CPU)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("other", [RowRandom(1, "noise"), RowRandom(0, "start")])
def test_seeds_and_purposes_give_other_numbers(other: RowRandom) -> None:
    first, second = RowRandom(0, "noise").uniform(0, 1000), other.uniform(0, 1000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert not np.intersect1d(first, second).size


def test_rows_do_not_overlap() -> None:
    random = RowRandom(0, "noise")
    drawn = np.concatenate([random.uniform(row, 500) for row in (0, 1, 2, 2**32, 2**63)])
    assert len(np.unique(drawn)) == len(drawn)


def test_the_largest_seed_works() -> None:
    assert RowRandom(2**63 - 1, "noise").uniform(0, 1)[0] != RowRandom(2**63 - 2, "noise").uniform(0, 1)[0]


def test_uniform_moments() -> None:
    drawn = np.concatenate([RowRandom(0, "noise").uniform(row, 1000) for row in range(100)])
    assert 0 <= drawn.min() < 1e-4 and 1 - 1e-4 < drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.004)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.001)


def test_normal_moments() -> None:
    drawn = np.stack([RowRandom(0, "noise").normal(row, 1000) for row in range(100)])
    assert drawn.mean() == pytest.approx(0, abs=0.015)
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn**3).mean() == pytest.approx(0, abs=0.05)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.15)
    assert abs(np.corrcoef(drawn[:, :500].ravel(), drawn[:, 500:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_counts(count: int) -> None:
    random = RowRandom(0, "noise")
    assert len(random.normal(0, count)) == len(random.uniform(0, count)) == len(random.permutation(0, count)) == count


def test_integers_are_even() -> None:
    drawn = RowRandom(0, "targets").integers(range(20_000), 10)
    assert np.bincount(drawn, minlength=10) == pytest.approx(2000, abs=200)


def test_permutations_are_shuffles() -> None:
    random = RowRandom(0, "order")
    shuffles = np.stack([random.permutation(row, 6) for row in range(3000)])
    assert np.array_equal(np.sort(shuffles, axis=1), np.tile(np.arange(6), (3000, 1)))
    for place in range(6):
        assert np.bincount(shuffles[:, place], minlength=6) == pytest.approx(500, abs=100)
    assert len(np.unique(shuffles, axis=0)) > 700


def test_torch_generators_are_keyed_by_row() -> None:
    draws = [torch.rand(3, generator=RowRandom(0, "crop").torch_generator(row, CPU)).tolist() for row in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


# The machine


def test_auto_device() -> None:
    device = resolve_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_autocast_computes_in_the_precision_asked_for(name: str) -> None:
    with autocast(CPU, name):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "'gpu' is no device; use auto, cpu, cuda"),
        ("", "'' is no device"),
        ("0", "no device|no CUDA device|does not exist|not supported"),
        ("meta", "device 'meta' is not supported"),
        ("mps", "device 'mps' is not supported"),
    ],
)
def test_devices_that_do_not_exist(name: str, message: str) -> None:
    if name == "0" and torch.cuda.is_available():
        pytest.skip("0 is a device here")
    with pytest.raises(UserError, match=message):
        resolve_device(name)


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_cuda(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' was asked for, .* use --device cpu"):
        resolve_device(name)


def test_progress_passes_items_on_and_keeps_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "steps")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""
