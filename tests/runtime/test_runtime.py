"""Device, random numbers and progress bars."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tqdm import tqdm

from featuregen.errors import UserError
from featuregen.runtime import progress_bar
from featuregen.runtime.console import progress
from featuregen.runtime.device import autocast, configure_process, resolve_device
from featuregen.runtime.rng import RowDraws, RowRandom

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


def test_tensors_for_many_rows_are_pinned() -> None:
    """SplitMix64's own numbers, and those of two rows of ours."""
    large = 2**62
    (state,) = RowDraws(torch.tensor([1234567])).integers(large, 3).tolist()
    assert state == [number % large for number in (6457827717110365317, 3203168211198807973, 9817491932198370423)]
    draws = RowRandom(7, "attack").draws([0, 5], CPU)
    assert draws.integers(1000, 3).tolist() == [[599, 49, 330], [711, 990, 945]]
    assert draws.seed() != RowRandom(8, "attack").draws([0], CPU).seed()


@pytest.mark.parametrize("kind", ["uniform", "normal", "signs"])
def test_a_row_draws_the_same_beside_any_others(kind: str) -> None:
    def drawn(rows: list[int], shapes: list[tuple[int, ...]]) -> torch.Tensor:
        draws = RowRandom(0, "attack").draws(rows, CPU)
        return torch.cat([getattr(draws, kind)(*shape).flatten(1) for shape in shapes], 1)

    whole = drawn([0, 1, 2, 3], [(4, 3), (2, 3)])
    assert torch.equal(whole[[3, 1]], drawn([3, 1], [(1, 3)] * 6))
    draws = RowRandom(0, "attack").draws([0, 1, 2, 3], CPU)
    getattr(draws, kind)(4, 3)
    part = draws[torch.tensor([2])]
    assert len(part) == 1 and torch.equal(getattr(part, kind)(2, 3).flatten(1), whole[[2], 12:])
    # The subset has advanced the shared counter.
    assert not torch.isin(RowRandom(0, "attack").draws([2], CPU).uniform(18), draws.uniform(6)[2]).any()
    # A fork starts at the same counter, and then counts alone.
    fork = draws.fork(torch.tensor([1]))
    first, second = getattr(fork, kind)(4), getattr(draws, kind)(4)
    assert torch.equal(first, second[[1]]) and not torch.equal(getattr(fork, kind)(4), first)


def test_tensors_for_many_rows_are_random() -> None:
    draws = RowRandom(3, "attack").draws(range(400), CPU)
    uniform, normal, signs = draws.uniform(500), draws.normal(500), draws.signs(500)
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=3e-3) and uniform.std() == pytest.approx(12**-0.5, abs=3e-3)
    assert normal.mean() == pytest.approx(0, abs=8e-3) and normal.std() == pytest.approx(1, abs=6e-3)
    assert normal.pow(4).mean() == pytest.approx(3, abs=0.1)
    assert set(signs.flatten().tolist()) == {-1, 1} and abs(signs.mean()) < 8e-3
    assert torch.corrcoef(uniform[:50]).fill_diagonal_(0).abs().max() < 0.25
    assert torch.corrcoef(uniform[:, :50].T).fill_diagonal_(0).abs().max() < 0.25
    counts = draws.integers(7, 500).flatten().bincount() / 200_000
    assert len(counts) == 7 and (counts - 1 / 7).abs().max() < 4e-3


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


# Devices and progress


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


def test_progress_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm, "monitor", None)
    assert list(progress(range(3), "three")) == [0, 1, 2] and tqdm.monitor is None


def test_progress_shows_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """There standard error is no terminal."""
    monkeypatch.setattr(progress_bar, "_IN_NOTEBOOK", True)
    assert list(progress(range(3), "steps")) == [0, 1, 2]
    assert "steps: " in capsys.readouterr().err


def test_progress_passes_items_on_and_keeps_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "steps")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_more_threads_than_a_machine_can_use_are_refused() -> None:
    before = torch.get_num_threads()
    with pytest.raises(UserError, match=r"runtime\.threads is 100000; this machine takes at most"):
        configure_process(100_000)
    assert torch.get_num_threads() == before
