"""`flips`: the command, its files, which agree with one another, and what it refuses."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featuregen.config.schema import Model
from featuregen.evaluation.label_flips import CSV_HEADER
from featuregen.models.io import save_model
from featuregen.models.registry import build_classifier
from featuregen.report.canvas import MAX_BYTES
from featuregen.report.label_flips import flip_maps, flips_table
from tests.helpers.cli_runs import ROOM, Ran, done, model, refused, tiny

WORDS = ("--attacks", "fgsm,pgd,spatial", "--eps", "0.1,51/255", "--rows", "60", "--set", "pgd.steps=3")
SMALL = ("--set", "spatial.angles=3", "--set", "spatial.shifts=3")


@cache
def folder() -> Path:
    return ROOM / "flips"


@cache
def ran() -> Ran:
    """Two models, two attacks at two radii, and one that takes none."""
    return done("flips", model("standard"), model("robust"), *WORDS, *SMALL, "--out", folder())


def found() -> Any:
    ran()
    return json.loads((folder() / "flips.json").read_text(encoding="utf-8"))


def test_the_table_and_the_paths_are_printed() -> None:
    output = ran()
    names = ["flips.json", "flips.csv", "flips-standard.png", "flips-robust.png"]
    assert output.out.splitlines()[-4:] == [str(folder() / name) for name in names]
    assert sorted(path.name for path in folder().glob("*.*")) == sorted(names)
    assert "note: spatial takes no eps and is run once" in output.err
    lines = output.out.splitlines()
    for run in found()["runs"]:
        own = lines[lines.index(run["model"]) : lines.index(run["model"]) + 10]
        start = run["attack"] + ("" if run["eps"] is None else f", Linf eps {run['eps']:g}")
        (line,) = [line for line in own if line.startswith(start + " ")]
        assert f"{run['flipped']}/{run['attacked']}" in line and f"{100 * run['success']:.1f}" in line
        strongest = run["attraction"]["strongest"]
        assert strongest is None or f"{strongest} ×{run['attraction']['ratios'][strongest]:.1f}" in line


def test_every_run_is_there_once() -> None:
    results = found()
    assert (results["format"], results["version"], results["images"]) == ("featuregen-flips", 1, 60)
    once = [("fgsm", 0.1), ("fgsm", 0.2), ("pgd", 0.1), ("pgd", 0.2), ("spatial", None)]
    output = [(run["model"], run["attack"], run["eps"]) for run in results["runs"]]
    assert output == [(name, *each) for name in ("standard", "robust") for each in once]
    assert {run["settings"]["steps"] for run in results["runs"] if run["attack"] == "pgd"} == {3}
    assert [each["title"] for each in results["models"]] == ["standard", "robust"]
    assert len({each["weights_sha256"] for each in results["models"]}) == 2


def test_matrices_count_correct_images_that_flip() -> None:
    for run in found()["runs"]:
        counts = np.array(run["matrix"])
        assert counts.shape == (10, 10) and not counts.diagonal().any() and counts.min() >= 0
        assert counts.sum() == run["flipped"] <= run["attacked"] <= 60
        assert run["success"] == pytest.approx(run["flipped"] / run["attacked"])
        assert 0 < run["asymmetry"]["chance"] < 1 and 0 < run["asymmetry"]["p"] <= 1
    by_radius = {run["eps"]: run["flipped"] for run in found()["runs"] if run["attack"] == "pgd"}
    assert by_radius[0.1] < by_radius[0.2]


def test_the_csv_holds_the_same_numbers() -> None:
    with (folder() / "flips.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == CSV_HEADER
    output = {tuple(row[:5]): int(row[5]) for row in rows}
    results = found()
    names, expected = results["base"]["classes"], {}
    for run in results["runs"]:
        eps = "" if run["eps"] is None else str(run["eps"])
        for true, seen in np.ndindex(10, 10):
            if true != seen:
                key = (run["model"], run["attack"], eps, names[true], names[seen])
                expected[key] = run["matrix"][true][seen]
    assert output == expected and len(rows) == len(expected) == 10 * 90


def test_pairs_are_those_at_one_radius() -> None:
    between = found()["agreement"]
    both = [(pair["first"], pair["second"]) for pair in between["attacks"]]
    pairs = [(one["attack"], two["attack"], one["eps"], two["eps"]) for one, two in both]
    own = [
        ("fgsm", "pgd", 0.1, 0.1), ("fgsm", "spatial", 0.1, None), ("fgsm", "pgd", 0.2, 0.2),
        ("fgsm", "spatial", 0.2, None), ("pgd", "spatial", 0.1, None), ("pgd", "spatial", 0.2, None),
    ]  # fmt: skip
    assert pairs == own + own and [pair["model"] for pair in between["attacks"]] == ["standard"] * 6 + ["robust"] * 6
    assert [(p["attack"], p["eps"], p["first"], p["second"]) for p in between["models"]] == [
        (run["attack"], run["eps"], "standard", "robust") for run in found()["runs"][:5]
    ]
    for pair in between["attacks"] + between["models"]:
        assert pair["both"] == 0 or (0 <= pair["share"] <= 1 and 0 < pair["p"] <= 1)


def test_related_attacks_agree_and_json_has_the_same_numbers() -> None:
    pair = found()["agreement"]["attacks"][2]
    assert pair["both"] > 10 and pair["share"] > pair["chance"] and pair["p"] < 0.05
    again = done("flips", model("standard"), model("robust"), *WORDS, *SMALL, "--out", folder(), "--json")
    assert again.json() == found() and str(folder() / "flips.csv") in again.err


@pytest.mark.parametrize("name", ["standard", "robust"])
def test_the_picture(name: str) -> None:
    ran()
    path = folder() / f"flips-{name}.png"
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    # Five panels of ten classes in two rows, and a bar beside them, at twice the density.
    assert pixels.shape[0] == 2 * (2 * (300 + 45) + 40) and pixels.shape[1] == 2 * (3 * 306 + 110)
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    dark = (colours.sum(1) < 3 * 110) & (colours[:, 2] > colours[:, 0] + 30)
    assert len(colours) > 50 and dark.any(), "shades of blue where a class attracts"


def test_a_panel_is_as_dark_as_its_row_says(tmp_path: Path) -> None:
    run = {
        "attack": "pgd", "norm": "l2", "eps": 0.5, "flipped": 40, "attacked": 50, "success": 0.8,
        "matrix": [[0, 10, 10], [0, 0, 20], [0, 0, 0]],
    }  # fmt: skip
    plain = {**run, "matrix": [[0, 10, 10], [10, 0, 10], [0, 0, 0]]}
    shades = []
    for number, each in enumerate((run, plain)):
        path = flip_maps(tmp_path / f"{number}.png", "it", [each], ["a cat", "a dog", "a bird"])
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int).reshape(-1, 3)
        shades.append(int((pixels == (0, 42, 69)).all(1).sum()))
    # All of a row's flips in one cell is the darkest shade, which halves do not have: they leave it to the bar's end.
    assert shades[0] > 20 * shades[1]


def test_many_classes_and_none_that_flips_can_be_drawn(tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(60)]
    run = {"attack": "spatial", "norm": None, "eps": None, "flipped": 0, "attacked": 0, "success": None}
    path = flip_maps(tmp_path / "it.png", "it", [run | {"matrix": np.zeros((60, 60)).tolist()}], names)
    with Image.open(path) as picture:
        assert picture.size[0] > 900 and len(picture.convert("RGB").getcolors(100_000) or ()) > 10


def test_a_single_model_without_flips(tmp_path: Path) -> None:
    words = ("--attacks", "noise", "--eps", "1e-6", "--norm", "l2", "--out", tmp_path, "--set", "noise.tries=1")
    output = done("flips", model("standard"), *words, "--rows", "20")
    (line,) = [line for line in output.out.splitlines() if line.startswith("noise, L2 eps 1e-06")]
    assert line.split()[-4:] == ["–", "1.000", "–", "1.000"] and "agreement of" not in output.out
    assert {path.name for path in tmp_path.iterdir()} >= {"flips.json", "flips.csv", "flips-standard.png"}


def test_models_of_one_name_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copied = tmp_path / "other" / "standard.safetensors"
    copied.write_bytes(model("standard").read_bytes())
    words = ("--attacks", "fgsm", "--eps", "0.2", "--rows", "30", "--out", tmp_path, "--json")
    results = done("flips", model("standard"), copied, *words).json()
    assert [each["title"] for each in results["models"]] == ["standard-1", "standard-2"]
    assert [each["file"] for each in results["models"]] == [str(model("standard")), str(copied)]
    (pair,) = results["agreement"]["models"]
    assert pair["both"] == results["runs"][0]["flipped"] > 0 and pair["share"] == 1 and pair["p"] < 0.01
    assert {path.name for path in tmp_path.glob("*.png")} == {"flips-standard-1.png", "flips-standard-2.png"}
    assert "standard-1 and standard-2: do they agree under the same attack?" in flips_table(results)


def test_the_images_can_be_named(tmp_path: Path) -> None:
    words = ("--attacks", "fgsm", "--eps", "0.2", "--out", tmp_path, "--json", "--config", tiny(), "--seed", "3")
    results = done("flips", model("standard"), *words, "--data", "digits", "--rows", "0").json()
    assert results["images"] == 359 and results["seed"] == 3 and results["base"]["name"] == "digits"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--attacks pdg --eps 0.1", "'pdg' is no attack; did you mean 'pgd'?"),
        ("--attacks , --eps 0.1", "--attacks names no attack"),
        ("--attacks pgd", "attack pgd needs a radius"),
        ("--attacks pgd --eps ,", "attack pgd needs a radius"),
        ("--attacks pgd --eps much", "attack pgd: eps is 'much'; give a number"),
        ("--attacks pgd --eps 0.1,x", "attack pgd: eps is 'x'; give a number"),
        ("--attacks pgd --eps 0.1,0.1", "eps 0.1 is given twice"),
        ("--attacks pgd --eps 0", "eps 0 changes nothing"),
        ("--attacks pgd --eps 1.5", "reaches every image"),
        ("--attacks pgd --eps 0.1 --norm l3", "'l3'"),
        (
            "--attacks pgd --eps 0.1 --set steps=3",
            "--set takes attack.key=value, for example --set pgd.steps=40; got 'steps=3'.",
        ),
        (
            "--attacks pgd --eps 0.1 --set pgd.steps",
            "--set takes attack.key=value, for example --set pgd.steps=40; got 'pgd.steps'.",
        ),
        ("--attacks pgd --eps 0.1 --set pgd.steps=3 --set pgd.steps=4", "--set pgd.steps is given twice"),
        ("--attacks pgd --eps 0.1 --set pgd.steps=few", "steps is 'few'; give a whole number"),
        ("--attacks pgd --eps 0.1 --set fgsm.steps=3", "'fgsm', which is not run"),
        ("--attacks pgd --eps 0.1 --rows 900", "give a number up to 359"),
        ("--attacks pgd --eps 0.1 --rows -1", "give a number up to 359"),
        ("--attacks pgd --eps 0.1 --data nowhere.npz", "nowhere.npz"),
        ("--attacks pgd --eps 0.1 --config nowhere", "nowhere"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: str, why: str) -> None:
    assert why in refused("flips", model("standard"), "--out", tmp_path / "o", *words.split())
    assert not (tmp_path / "o").exists(), "nothing is begun"


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    words = ("--attacks", "pgd", "--eps", "0.1", "--out", tmp_path / "o")
    two = tmp_path / "two.safetensors"
    save_model(build_classifier(Model(width=8), (1, 8, 8), 2, [0.0], [1.0], 0), two)
    assert "2 classes" in refused("flips", model("standard"), two, *words)
    assert "records no settings" in refused("flips", two, *words)
    assert "nowhere.safetensors" in refused("flips", tmp_path / "nowhere.safetensors", *words)
    assert "is given twice" in refused("flips", model("standard"), model("standard"), *words)
    assert "Missing argument" in refused("flips", *words)
    (tmp_path / "letter").write_text("a letter")
    assert "letter" in refused("flips", model("standard"), *words[:4], "--rows", "10", "--out", tmp_path / "letter")
