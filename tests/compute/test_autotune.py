"""What `auto` stands for: the candidates, the measurement and its memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import featuregen.compute.autotune
from featuregen import Experiment, load_config
from featuregen.compute import winograd
from featuregen.compute.autotune import candidate_specs, load_or_autotune, measure, multiplies_bf16, pick_compute_spec
from featuregen.config.schema import Config, Convolution, Model, Precision, Runtime
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec

PLAIN = ComputeSpec()
WINOGRAD = ComputeSpec(convolution="winograd")
BF16 = ComputeSpec(precision="bf16")


def net() -> Classifier:
    return build_classifier(Model("resnet9", 32), (3, 16, 16), 10, [0.5] * 3, [0.25] * 3, 0)


def never() -> Classifier:
    raise AssertionError("measured, though there was nothing to choose")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a compiler and bf16 in hardware, whatever runs the test."""
    monkeypatch.setattr(featuregen.compute.autotune, "multiplies_bf16", lambda device: True)
    monkeypatch.setattr(winograd, "available", lambda: True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[ComputeSpec, float]], None]:
    def pretend(seconds: dict[ComputeSpec, float]) -> None:
        monkeypatch.setattr(
            featuregen.compute.autotune, "measure", lambda choices, model: {one: seconds[one] for one in choices}
        )

    return pretend


ALLOWED: dict[tuple[Precision, Convolution], list[ComputeSpec]] = {
    ("auto", "auto"): [PLAIN, WINOGRAD, BF16],
    ("auto", "direct"): [PLAIN, BF16],
    ("auto", "winograd"): [WINOGRAD],
    ("fp32", "auto"): [PLAIN, WINOGRAD],
    ("fp32", "direct"): [PLAIN],
    ("fp32", "winograd"): [WINOGRAD],
    ("bf16", "auto"): [BF16],
    ("bf16", "direct"): [BF16],
}


@pytest.mark.parametrize(
    ("precision", "convolution"), list(itertools.product(*map(sorted, zip(*ALLOWED, strict=True))))
)
def test_candidates(able: None, precision: Precision, convolution: Convolution) -> None:
    settings = Runtime(device="cpu", precision=precision, convolution=convolution)
    if (precision, convolution) in ALLOWED:
        assert candidate_specs(settings) == ALLOWED[precision, convolution]


def test_emulated_bf16_is_no_candidate_unless_requested(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featuregen.compute.autotune, "multiplies_bf16", lambda device: False)
    assert candidate_specs(Runtime(device="cpu")) == [PLAIN, WINOGRAD]
    assert candidate_specs(Runtime(device="cpu", precision="bf16")) == [BF16]


def test_what_cannot_go_together_is_refused(able: None) -> None:
    with pytest.raises(UserError, match="winograd is for fp32 on CPUs; use direct or auto"):
        candidate_specs(Runtime(device="cpu", precision="bf16", convolution="winograd"))


def test_winograd_without_a_compiler_is_refused_and_auto_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "available", lambda: False)
    with pytest.raises(UserError, match="needs a C compiler with OpenMP; install gcc, or use direct"):
        candidate_specs(Runtime(device="cpu", convolution="winograd"))
    assert WINOGRAD not in candidate_specs(Runtime(device="cpu"))


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({PLAIN: 1.0, WINOGRAD: 0.5, BF16: 0.8}, WINOGRAD),
        ({PLAIN: 1.0, WINOGRAD: 0.5, BF16: 0.2}, BF16),
        ({PLAIN: 1.0, WINOGRAD: 0.95, BF16: 0.92}, PLAIN),
        ({PLAIN: 1.0, WINOGRAD: 2.0, BF16: 3.0}, PLAIN),
    ],
)
def test_the_clearly_fastest_is_chosen_and_named(
    able: None,
    measured: Callable[[dict[ComputeSpec, float]], None],
    capsys: pytest.CaptureFixture[str],
    seconds: dict[ComputeSpec, float],
    best: ComputeSpec,
) -> None:
    measured(seconds)
    assert pick_compute_spec(Runtime(device="cpu"), net) == (best, True)
    assert f"computing in {best.name}, measured" in capsys.readouterr().err


def test_nothing_is_measured_where_nothing_is_open(able: None) -> None:
    settings = Runtime(device="cpu", precision="fp32", convolution="direct")
    assert pick_compute_spec(settings, never) == (PLAIN, False)


def test_what_was_found_before_is_used_again(able: None, measured: Callable[[dict[ComputeSpec, float]], None]) -> None:
    assert pick_compute_spec(Runtime(device="cpu"), never, WINOGRAD.numerics) == (WINOGRAD, False)
    # What the settings no longer allow, or the machine no longer can, is measured anew.
    measured({PLAIN: 1.0, BF16: 0.5})
    assert pick_compute_spec(Runtime(device="cpu", convolution="direct"), net, WINOGRAD.numerics) == (BF16, True)


def test_every_candidate_is_really_timed() -> None:
    choices = [PLAIN, WINOGRAD] if winograd.available() else [PLAIN]
    found = measure(choices, net())
    assert list(found) == choices and min(found.values()) > 0
    assert isinstance(multiplies_bf16(torch.device("cpu")), bool)


def test_a_compiler_that_fails_is_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("no working C++ compiler\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    settings = Runtime(device="cpu", precision="fp32", convolution="direct", compile=True)
    assert pick_compute_spec(settings, net) == (PLAIN, False)
    assert "torch.compile fails here and is not used: no working C++ compiler\n" in capsys.readouterr().err


def test_compiled_nets_are_asked_for_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fused(network: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            calls.append(arguments[0].shape)
            return network(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", fused)
    settings = Runtime(device="cpu", precision="fp32", convolution="direct", compile=True)
    compute, _ = pick_compute_spec(settings, net)
    assert compute.numerics == {"precision": "fp32", "convolution": "direct", "compiled": "yes"}
    assert calls


@pytest.mark.slow
def test_torch_compile_gives_the_same_features() -> None:
    compute, _ = pick_compute_spec(Runtime(device="cpu", precision="fp32", convolution="direct", compile=True), net)
    assert compute.compiled
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    from featuregen.compute.folding import folded_copy

    assert torch.allclose(folded_copy(net(), compute).features(x), folded_copy(net(), PLAIN).features(x), atol=1e-4)


# The folder's memory ------------------------------------------------------------------------------


def experiment_in(folder: Path, architecture: str = "convnet") -> Experiment:
    config: Config = load_config("digits", ["runtime.convolution=auto", f"model.architecture={architecture}"])
    return Experiment(config, folder)


def test_a_folder_remembers_what_was_measured(
    able: None, measured: Callable[[dict[ComputeSpec, float]], None], tmp_path: Path
) -> None:
    measured({PLAIN: 1.0, WINOGRAD: 0.5})
    assert experiment_in(tmp_path).compute == WINOGRAD
    kept = json.loads((tmp_path / "models" / "arithmetic.json").read_text(encoding="utf-8"))
    assert list(kept.values()) == [WINOGRAD.numerics]
    # A later measurement would say otherwise, and is not made.
    measured({PLAIN: 1.0, WINOGRAD: 3.0})
    assert experiment_in(tmp_path).compute == WINOGRAD
    assert experiment_in(tmp_path / "elsewhere").compute == PLAIN


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"a": 1}', '{"a": {"precision": 7}}', "[" * 5000, "\xff"])
def test_a_damaged_memory_is_set_aside(
    able: None, measured: Callable[[dict[ComputeSpec, float]], None], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "models" / "arithmetic.json"
    path.parent.mkdir()
    path.write_text(content, encoding="latin-1")
    measured({PLAIN: 1.0, WINOGRAD: 0.5})
    # What costs nothing changes nothing.
    load_or_autotune(load_config("digits"), (1, 8, 8), 10, path.parent, keep=False)
    assert [file.name for file in path.parent.iterdir()] == ["arithmetic.json"]
    assert experiment_in(tmp_path).compute == WINOGRAD
    assert list(json.loads(path.read_text(encoding="utf-8")).values()) == [WINOGRAD.numerics]
    assert path.with_name("arithmetic.json.damaged").read_text(encoding="latin-1") == content


def test_nothing_is_written_where_nothing_was_measured(tmp_path: Path) -> None:
    assert Experiment(load_config("digits"), tmp_path).compute == PLAIN
    assert not list(tmp_path.iterdir())
