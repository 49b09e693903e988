"""Settings: how YAML is read, and what is refused and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from featuregen.config.kinds import KINDS
from featuregen.config.loader import config_names, did_you_mean, from_dict, load_config, with_overrides
from featuregen.config.schema import PGD, Config, Synthesis, Training
from featuregen.config.serialize import to_dict
from featuregen.errors import UserError

ROBUST = "sources: {robust: {attack: {eps: 0.5}}}\n"


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_config(write(folder, text), overrides or [])
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading


def test_defaults_and_the_name_of_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "seed: 3\n"))
    assert config == dataclasses.replace(Config(), name="mine", seed=3)
    assert load_config(write(tmp_path, "name: other\n")).name == "other"


def test_every_shipped_config_loads() -> None:
    names = config_names()
    assert "digits" in names
    for name in names:
        config = load_config(name)
        assert config.name == name
        assert from_dict(Config, to_dict(config), name) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("8/255", 8 / 255), ("'1/4'", 0.25), ("1", 1.0), (".5", 0.5), ("1e1", 10.0), ("8 / 255", 8 / 255)],
)
def test_numbers(tmp_path: Path, text: str, value: float) -> None:
    config = load_config(write(tmp_path, f"sources: {{robust: {{attack: {{eps: {text}}}}}}}"))
    assert config.sources.robust.attack is not None
    assert config.sources.robust.attack.eps == value and isinstance(config.sources.robust.attack.eps, float)


@pytest.mark.parametrize(("text", "value"), [("1e3", 1000), ("12", 12), ("'7'", 7), ("3.0", 3)])
def test_whole_numbers(tmp_path: Path, text: str, value: int) -> None:
    seed = load_config(write(tmp_path, f"seed: {text}")).seed
    assert seed == value and isinstance(seed, int)


def test_the_largest_seed_is_exact(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, f"seed: {2**63 - 1}")).seed == 2**63 - 1


@pytest.mark.parametrize(("text", "value"), [("[0.5, 8/255]", (0.5, 8 / 255)), ("0.5", (0.5,)), ("[5e-1]", (0.5,))])
def test_lists_of_numbers(tmp_path: Path, text: str, value: tuple[float, ...]) -> None:
    assert load_config(write(tmp_path, f"evaluation: {{l2: {text}}}")).evaluation.l2 == value


def test_kinds(tmp_path: Path) -> None:
    text = "".join(f"  {kind}: {{norm: l2, eps: 0.5, steps: {n}}}\n" for n, kind in enumerate(KINDS, 1))
    config = load_config(write(tmp_path, f"synthesis:\n{text}fresh: {{det: {{epochs: 5}}}}"))
    assert list(config.synthesis) == list(KINDS)
    assert config.synthesis["det"].steps == 6
    assert config.fresh["det"] == Training(epochs=5)


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "synthesis: {robust: {steps: 5}}"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]  # mypy sees it too; tested is that Python refuses


# Refusing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 3", "unknown setting 'sede'; did you mean 'seed'?"),
        ("data: {nmae: digits}", "unknown setting 'data.nmae'; did you mean 'name'?"),
        ("synthesis: {robust: {step: 5}}", "unknown setting 'synthesis.robust.step'; did you mean 'steps'?"),
        ("zzzz: 3", "unknown setting 'zzzz'; known: name, seed, data,"),
        ("synthesis: {robsut: {steps: 5}}", "robsut is no kind of dataset; did you mean 'robust'?"),
        ("fresh: {D_rand: {}}", "D_rand is no kind of dataset;"),
        ("seed: -1", "seed is -1; it must be at least 0."),
        ("seed: 9223372036854775808", "seed is 9223372036854775808; it must be at most"),
        ("seed: 1.5", "seed is 1.5; give a whole number."),
        ("seed: true", "seed is True; give a whole number."),
        ("seed:", "seed is None; give a whole number."),
        ("seed: [1]", "seed is [1]; give a whole number."),
        ("sources: {standard: {lr: 0}}", "sources.standard.lr is 0; it must be above 0."),
        ("sources: {standard: {lr: fast}}", "sources.standard.lr is 'fast'; give a number such as 0.5, 5e-4 or 8/255."),
        ("sources: {standard: {lr: 1/0}}", "sources.standard.lr is '1/0'; give a number"),
        ("sources: {standard: {lr: .nan}}", "sources.standard.lr is nan; give a number"),
        ("sources: {standard: {lr: .inf}}", "sources.standard.lr is inf; give a number"),
        ("sources: {standard: {lr: 1/2/3}}", "sources.standard.lr is '1/2/3'; give a number"),
        ("sources: {standard: {batch_size: 1}}", "sources.standard.batch_size is 1; it must be at least 2."),
        ("sources: {standard: {momentum: 2}}", "sources.standard.momentum is 2; it must be at most 1."),
        ("sources: {standard: {milestones: [0.5, 1.5]}}", "sources.standard.milestones is 1.5; it must be at most 1."),
        ("sources: {standard: {augment: {flip: 1}}}", "sources.standard.augment.flip is 1; give true or false."),
        ("sources: {standard: {optimizer: sgdd}}", "sources.standard.optimizer is 'sgdd'; did you mean 'sgd'?"),
        ("runtime: {precision: pf32}", "runtime.precision is 'pf32'; did you mean 'fp32'?"),
        ("runtime: {convolution: winogradd}", "runtime.convolution is 'winogradd'; did you mean 'winograd'?"),
        ("runtime: {convolution: fft}", "runtime.convolution is 'fft'; known: auto, direct, winograd."),
        ("runtime: {compile: 1}", "runtime.compile is 1; give true or false."),
        ("runtime: {compile: always}", "runtime.compile is 'always'; give true or false."),
        ("synthesis: {robust: {momentum: 1}}", "synthesis.robust.momentum is 1; it must be at most 0.999."),
        ("synthesis: {robust: {momentum: -0.1}}", "synthesis.robust.momentum is -0.1; it must be at least 0."),
        ("synthesis: {robust: {schedule: poliak}}", "synthesis.robust.schedule is 'poliak'; did you mean 'polyak'?"),
        ("evaluation: {l2: [-0.5]}", "evaluation.l2 is -0.5; it must be at least 0."),
        ("data: digits", "data must hold settings as 'key: value' pairs; got 'digits'."),
        ("synthesis: [robust]", "synthesis must map kinds of dataset to settings."),
        ("synthesis: {robust: 5}", "synthesis.robust must hold settings as 'key: value' pairs; got 5."),
        ("synthesis: {rand: {}}", "synthesis.rand.norm is 'none'; rand needs a ball"),
        ("synthesis: {det: {eps: 1}}", "synthesis.det.norm is 'none'; det needs a ball"),
        ("synthesis: {rand: {norm: l2}}", "synthesis.rand.eps is 0 with norm l2; give a positive radius."),
        ("evaluation: {headline: 0.3}", "evaluation.headline is 0.3; choose one of evaluation.l2: 0.25, 0.5."),
        ("sources: {robust: {epochs: 3}}", "sources.robust.attack is missing;"),
        ("sources: {robust: {attack: null}}", "sources.robust.attack is missing;"),
        ("sources: {standard: {attack: {eps: 1}}}", "sources.standard.attack is set;"),
        ("name: ../up", "name is '../up'; it names a folder"),
        ("name: ..", "name is '..'; it names a folder"),
        ("name: .", "name is '.'; it names a folder"),
        ("name:", "name is None; give"),
        ("name: no", "name is False; give"),
        ("data: {name: [digits]}", "data.name is ['digits']; give"),
        ("data: {folder: null}", "data.folder is None; give"),
        ("sources: {standard: {lr: 1" + "0" * 400 + "}}", "give a number such as"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "mine.yaml is not valid YAML:"),
        ("a: b: c", "mine.yaml is not valid YAML:"),
        ("seed: \x00", "mine.yaml is not valid YAML:"),
        ("seed: !!python/object/apply:os.getcwd []", "mine.yaml is not valid YAML:"),
        ("seed: !!int 0x1F", "mine.yaml is not valid YAML:"),
        ("seed: !!timestamp 2026-13-45", "mine.yaml is not valid YAML:"),
        ("", "mine.yaml must hold settings as 'key: value' lines."),
        ("- seed", "mine.yaml must hold settings as 'key: value' lines."),
        ("just words", "mine.yaml must hold settings as 'key: value' lines."),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(UserError, match=r"Cannot read config .*x\.yaml"):
        load_config(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize("name", ["nowhere.yaml", "digitz", "."])
def test_configs_that_do_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=r"No config .*: give a YAML file or a shipped name;"):
        load_config(name)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("sttep", "did you mean 'steps'?"), ("zzz", "known: steps, eps."), ("epss", "did you mean 'eps'?")],
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["steps", "eps"]) == hint


# Overriding


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "synthesis: {robust: {steps: 5}}")
    changes = [
        "seed=4",
        "name=again",
        "synthesis.robust.steps=7",
        "synthesis.det.norm=l2",
        "synthesis.det.eps=8/255",
        "sources.standard.lr=5e-2",
        "sources.standard.augment.flip=true",
        "evaluation.l2=[0.5, 1/4]",
        "data.name=folder/a=b.npz",
    ]
    config = load_config(path, changes)
    assert (config.seed, config.name, config.data.name) == (4, "again", "folder/a=b.npz")
    assert config.synthesis == {"robust": Synthesis(steps=7), "det": Synthesis(norm="l2", eps=8 / 255)}
    assert config.sources.standard.lr == 0.05 and config.sources.standard.augment.flip
    assert config.evaluation.l2 == (0.5, 0.25)
    assert with_overrides(load_config(path), changes) == config


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("false", False)])
def test_options_of_an_attack_are_text_and_may_be_true_or_false(text: str, expected: bool) -> None:
    assert from_dict(PGD, {"steps": "7", "random_start": text}, "attack pgd") == PGD(steps=7, random_start=expected)


def test_overrides_leave_the_original_alone(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "synthesis: {robust: {steps: 5}}"))
    changed = with_overrides(config, ["synthesis.robust.steps=6"])
    assert (config.synthesis["robust"].steps, changed.synthesis["robust"].steps) == (5, 6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set takes key=value, for example"),
        ("=3", "--set takes key=value"),
        ("seed=-1", "seed is -1; it must be at least 0."),
        ("seed.more=3", "'seed.more' cannot be set: 'seed' is a single value and holds no 'more'."),
        ("synthesis.robust.stesp=3", "unknown setting 'synthesis.robust.stesp'; did you mean 'steps'?"),
        ("evaluation.headline=0.1", "evaluation.headline is 0.1;"),
        ("seed=[1", "seed is '[1'; give a whole number."),
        ("seed=2026-13-45", "seed is '2026-13-45'; give a whole number."),
        ("data.name=", "data.name is None; give"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    assert message in refused(tmp_path, "seed: 1\n", [override])
    with pytest.raises(UserError):
        with_overrides(load_config(write(tmp_path, "seed: 1\n")), [override])


def test_an_override_changes_one_of_two_settings_written_once(tmp_path: Path) -> None:
    text = "synthesis: {robust: &same {steps: 5}, nonrobust: *same}"
    config = load_config(write(tmp_path, text), ["synthesis.robust.steps=6"])
    assert {kind: recipe.steps for kind, recipe in config.synthesis.items()} == {"robust": 6, "nonrobust": 5}


@pytest.mark.parametrize(
    "text",
    [
        "synthesis: {det: {norm: linf, eps: 1.25}}",
        "sources: {robust: {attack: {norm: linf, eps: 1}}}",
        "evaluation: {linf: [0.1, 1.0]}",
    ],
)
def test_a_linf_ball_that_holds_every_image_is_refused(tmp_path: Path, text: str) -> None:
    assert "holds every image" in refused(tmp_path, text)


def test_a_radius_without_a_norm_is_refused(tmp_path: Path) -> None:
    assert "its norm is none" in refused(tmp_path, "synthesis: {robust: {eps: 0.5}}")


def test_an_anchor_that_merges_another_is_no_doubled_key(tmp_path: Path) -> None:
    text = "synthesis: {robust: &a {steps: 5}, nonrobust: &b {<<: *a, steps: 6}, robust-noise: {<<: *b}}"
    config = load_config(write(tmp_path, text))
    assert [config.synthesis[kind].steps for kind in ("robust", "nonrobust", "robust-noise")] == [5, 6, 6]


def test_a_node_that_holds_itself_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "data: &a {name: *a}")


@pytest.mark.parametrize("kind", KINDS)
def test_polyak_is_for_features_and_measures_in_l2(tmp_path: Path, kind: str) -> None:
    def text(ball: str) -> str:
        return f"synthesis: {{{kind}: {{schedule: polyak, {ball}}}}}"

    if kind in ("rand", "det"):
        for ball in ("norm: l2, eps: 0.5", "norm: linf, eps: 0.1"):
            message = f"synthesis.{kind}.schedule is polyak, which needs a goal that can be reached; use cosine."
            assert refused(tmp_path, text(ball)) == message
        return
    message = f"synthesis.{kind}.schedule is polyak, whose steps are measured in L2; its norm cannot be linf."
    assert refused(tmp_path, text("norm: linf, eps: 0.1")) == message
    for ball in ("norm: none", "norm: l2, eps: 0.5"):
        assert load_config(write(tmp_path, text(ball))).synthesis[kind].schedule == "polyak"


@pytest.mark.parametrize("convolution", ["auto", "direct", "winograd"])
@pytest.mark.parametrize("compile_", [False, True])
def test_the_engine_is_chosen_in_a_file_or_by_an_override(tmp_path: Path, convolution: str, compile_: bool) -> None:
    written = load_config(
        write(tmp_path, f"runtime: {{convolution: {convolution}, compile: {str(compile_).lower()}}}")
    ).runtime
    assert (written.convolution, written.compile) == (convolution, compile_)
    asked = [f"runtime.convolution={convolution}", f"runtime.compile={str(compile_).lower()}"]
    assert load_config(write(tmp_path, "seed: 1"), asked).runtime == written


def test_fake_relu_is_for_features(tmp_path: Path) -> None:
    text = "synthesis: {det: {norm: l2, eps: 0.5, fake_relu: true}}"
    assert "sets made from features" in refused(tmp_path, text)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "'seed' is given twice" in refused(tmp_path, "seed: 1\nseed: 2\n")
