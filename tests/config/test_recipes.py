"""The recipes with a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from featuregen.config import loader
from featuregen.config.kinds import KINDS
from featuregen.config.loader import load_config
from featuregen.config.recipes import RECIPES, NamedRecipe, recipe_values
from featuregen.config.schema import Config
from featuregen.errors import UserError
from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import done, refused, tiny

BALL = {"synthesis.det.norm": "l2", "synthesis.det.eps": 0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_the_paper_recipe_has_the_settings_of_the_paper(kind: str) -> None:
    recipe = load_config("digits", values=recipe_values("paper", kind)).synthesis[kind]
    walk = (recipe.steps, recipe.step_size, recipe.schedule, recipe.momentum)
    if kind in ("rand", "det"):
        assert walk == (100, 0.1, "constant", 0.0) and (recipe.norm, recipe.eps) == ("l2", 0.5)
    else:
        assert walk == (1000, 0.1, "constant", 0.0) and recipe.norm == "none"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_can_be_written_out(kind: str, name: str) -> None:
    """The same by name and as so many --set, of one kind and no other."""
    values = recipe_values(name, kind)
    written = load_config("digits", [f"{key}={value}" for key, value in values.items()])
    assert written == load_config("digits", values=values)
    other = {other: recipe for other, recipe in written.synthesis.items() if other != kind}
    assert other == {key: recipe for key, recipe in load_config("digits").synthesis.items() if key != kind}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_recipe_takes_a_third_of_the_steps_at_most(kind: str) -> None:
    paper, fast = (
        load_config("digits", values=recipe_values(name, kind)).synthesis[kind] for name in ("paper", "fast")
    )
    assert fast.steps <= paper.steps / 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--recipe", "paper"), [7, 0.1, 0.5]),
        (("--recipe", "fast", "--eps", "0.24"), [3, 0.1, 0.24]),
        (("--recipe", "paper", "--steps", "4"), [4, 0.0, 0.5]),
        (("--recipe", "paper", "--set", "sources.robust.attack.step_size=0.3"), [7, 0.3, 0.5]),
    ],
)
def test_a_model_is_trained_against_the_named_attack(
    words: tuple[str, ...], expected: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "robust.safetensors"
    done("train", "--config", tiny(), "--epochs", "1", "--out", path, *words)
    attack = read_model_record(path)["record"]["settings"]["training"]["attack"]
    assert [attack["steps"], attack["step_size"], attack["eps"]] == pytest.approx(expected)


def test_a_recipe_contradicts_standard_training(tmp_path: Path) -> None:
    words = ("--standard", "--config", tiny(), "--out", tmp_path / "model.safetensors", "--recipe", "fast")
    assert "leave out --recipe, or --standard" in refused("train", *words)


@pytest.mark.parametrize("command", ["make-dataset det", "make-robust-dataset", "train", "reproduce"])
def test_an_unknown_recipe_is_refused(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(*command.split(), "--config", tiny(), "--recipe", "quick")
    assert "'quick' is not one of 'paper', 'fast'" in message and not list(tmp_path.iterdir())


def reproduced(monkeypatch: pytest.MonkeyPatch, *words: str) -> Config:
    """The settings that `reproduce` would go to work with."""
    found: list[Config] = []

    def experiment(config: Config, out: Path) -> None:
        found.append(config)
        raise UserError("no more is wanted")

    monkeypatch.setattr("featuregen.experiment.experiment.Experiment", experiment)
    assert "no more is wanted" in refused("reproduce", "--config", str(tiny()), *words)
    return found[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_whole_experiment_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--set", "synthesis.rand.eps=0.75", "--set", "sources.robust.attack.eps=0.24")
    config, plain = reproduced(monkeypatch, *words, "--recipe", name), reproduced(monkeypatch, *words)
    values = {key: value for kind in KINDS for key, value in recipe_values(name, kind).items()}
    wanted = load_config(str(tiny()), words[1:2], values).synthesis
    assert config.synthesis == wanted and all(wanted[kind] != plain.synthesis[kind] for kind in KINDS)
    attack, steps = config.sources.robust.attack, {"paper": 7, "fast": 3}[name]
    assert attack and (attack.steps, attack.eps) == (steps, 0.24)
    assert attack.step_size == pytest.approx({"paper": 0.048, "fast": 0.1}[name])
    # What a recipe does not speak of stays.
    assert config.fresh == plain.fresh and config.sources.standard == plain.sources.standard


def test_settings_are_read_and_checked_once_with_a_named_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, built = tmp_path / "mine.yaml", []
    path.write_text("sources: {robust: {attack: {eps: 1.0}}}\n", encoding="utf-8")
    from_dict = loader.from_dict
    monkeypatch.setattr(loader, "from_dict", lambda *words: built.append(words) or from_dict(*words))  # type: ignore[func-returns-value]
    # Without the recipe the norm would be missing.
    config = load_config(str(path), ["synthesis.rand.eps=0.75"], recipe=NamedRecipe("paper", ("rand",), training=True))
    assert len(built) == 1 and list(config.synthesis) == ["rand"]
    assert (config.synthesis["rand"].norm, config.synthesis["rand"].eps) == ("l2", 0.75)
    assert config.sources.robust.attack is not None and config.sources.robust.attack.step_size == 0.2


def test_a_recipe_for_all_kinds_takes_those_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("synthesis: {robust: {steps: 3}}\n", encoding="utf-8")
    config = load_config(str(path), ["synthesis.det.steps=7"], recipe=NamedRecipe("fast"), values={"seed": 3} | BALL)
    assert {kind: recipe.steps for kind, recipe in config.synthesis.items()} == {"robust": 60, "det": 7}
    assert config.synthesis["det"].schedule == "cosine" and config.sources == load_config(str(path)).sources


@pytest.mark.parametrize(
    "text", ["synthesis: [robust]", "synthesis: 5", "sources: 5", "sources: {robust: {attack: 1}}"]
)
def test_a_recipe_for_settings_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=text.partition(":")[0]):
        load_config(str(path), recipe=NamedRecipe("fast", training=True))


def test_digits_come_with_the_fast_recipe() -> None:
    plain = load_config("digits")
    for kind in KINDS:
        assert load_config("digits", values=recipe_values("fast", kind)) == plain
