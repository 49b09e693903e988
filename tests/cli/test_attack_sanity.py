"""`attack --sanity`: what it prints, the record and the picture it writes, its exit codes, and what it refuses."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featuregen.models.io import load_model, save_model
from featuregen.report.canvas import MAX_BYTES
from tests.helpers.cli_runs import ROOM, Ran, dataset, done, model, refused, run

LESS = ("--set", "steps=5", "--set", "queries=60", "--rows", "60")
BALL = ("--norm", "linf", "--eps", "0.1")


@cache
def saturated() -> Path:
    """The standard model, so sure that cross-entropy has no slope left in float32."""
    path = ROOM / "saturated.safetensors"
    net = load_model(model("standard"))
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(1e5)
    save_model(net, path)
    return path


@cache
def honest() -> Ran:
    words = ("--from", model("robust"), "--out", ROOM / "honest.json")
    return done("attack", model("standard"), "--sanity", *BALL, *LESS, *words)


def record(name: str) -> Any:
    return json.loads((ROOM / name).read_text(encoding="utf-8"))


def test_an_unmasked_model_passes_and_every_recorded_rate_is_printed() -> None:
    output = honest().out.splitlines()
    found = record("honest.json")
    assert (found["format"], found["version"], found["ok"]) == ("featuregen-sanity", 1, True)
    assert found["settings"] == {"norm": "linf", "eps": 0.1, "steps": 5, "queries": 60}
    assert found["images"] == {"name": "digits", "split": "test", "count": 60}
    assert found["tried"] == round(60 * found["accuracy"]) > 30
    assert (found["model"]["file"], found["origin"]["file"]) == ("standard.safetensors", "robust.safetensors")
    assert found["model"]["weights_sha256"] != found["origin"]["weights_sha256"] and found["software"]["torch"]
    for check in found["checks"]:
        place = next(number for number, line in enumerate(output) if line.startswith(check["name"] + " "))
        assert "passed" in output[place] and output[place].endswith(check["meaning"])
        for line, rate in zip(output[place : place + len(check["rates"])], check["rates"], strict=True):
            assert rate["name"] in line and f" {100 * rate['lost']:.1f}" in line
    assert output[-3] == "no sign of masked gradients; that alone does not make a model robust"
    assert output[-2:] == [str(ROOM / "honest.json"), str(ROOM / "honest.png")]
    assert max(map(len, output[:-2])) <= 160


def test_all_threat_models_are_there() -> None:
    honest()
    (check,) = [check for check in record("honest.json")["checks"] if check["name"] == "gradient-free attacks"]
    assert [rate["threat"] for rate in check["rates"]] == ["query", "transfer", "white-box"]
    transfer, white = (rate["lost"] for rate in check["rates"][1:])
    assert 0 < transfer < white, "what another model finds is worth something, and less"
    lines = [line for line in honest().out.splitlines() if " transfer " in line and "black box (transfer)" in line]
    assert len(lines) == 1


def test_the_picture() -> None:
    honest()
    path = ROOM / "honest.png"
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    found = record("honest.json")["checks"]
    bars = sum(len(check["rates"]) for check in found)
    assert pixels.shape[:2] == (2 * (20 * (bars + len(found)) + 110), 1520)
    blue, orange, purple = (
        (pixels == shade).all(2).any(1) for shade in ((0, 114, 178), (230, 159, 0), (204, 121, 167))
    )
    # A bar is 28 pixels high; those of nothing have none, and the legend has one of each colour.
    assert blue.sum() > 4 * 20 and orange.sum() > 20 and purple.sum() > 20
    assert not (pixels == (213, 94, 0)).all(2).any(), "nothing is flagged"


def test_a_masked_model_is_flagged_with_exit_code_1(tmp_path: Path) -> None:
    out = tmp_path / "new" / "it.json"
    ran = run("attack", saturated(), "--sanity", *BALL, *LESS, "--out", out, "--json")
    results = ran.json()
    assert ran.code == 1 and not results["ok"] and results["file"] == str(out) and "origin" not in results
    flagged = [check["name"] for check in results["checks"] if not check["ok"]]
    assert flagged == ["non-zero gradient"] and results["checks"][1]["rates"][0]["lost"] > 0.9
    assert ran.err.splitlines()[-1] == f"failed: {saturated()}: gradients look masked, by the checks: non-zero gradient"
    assert json.loads(out.read_text(encoding="utf-8")) == {key: results[key] for key in results if key != "file"}
    with Image.open(out.with_suffix(".png")) as picture:
        assert (np.asarray(picture.convert("RGB")) == (213, 94, 0)).all(2).any(), "what is flagged is red"
    again = run("attack", saturated(), "--sanity", *BALL, *LESS, "--out", out)
    lines = again.out.splitlines()
    assert again.code == 1 and any(line.startswith("non-zero gradient") and " FLAGGED " in line for line in lines)
    assert lines[-3].startswith("flagged by non-zero gradient: accuracies under gradient attacks say little")


def test_images_seed_and_norm_can_be_chosen(tmp_path: Path) -> None:
    words = ("--set", "steps=2", "--set", "queries=5", "--seed", "3", "--norm", "l2", "--eps", "0.3", "--json")
    out = ("--out", tmp_path / "a.json")
    ran = run("attack", model("standard"), "--sanity", *words, *out, "--data", dataset("robust"), "--rows", "0")
    results = ran.json()
    assert results["images"] == {"name": "robust.h5", "split": "dataset", "count": 40} and results["seed"] == 3
    assert results["settings"]["norm"] == "l2" and ran.code == (0 if results["ok"] else 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "name an attack with --attack, such as pgd, or ask for --sanity"),
        ("--sanity --attack pgd", "--sanity chooses its attacks itself and takes no --attack"),
        ("--sanity --target 3", "takes no --target"),
        ("--sanity --dtype uint8", "takes no --dtype"),
        ("--sanity --precision fp32", "takes no --precision"),
        ("--sanity --force", "takes no --force"),
        ("--sanity --out a.h5", "--out a.h5 should end in .json"),
        ("--sanity --eps 0", "gradient masking: eps is 0"),
        ("--sanity --eps 1", "eps 1 reaches every image"),
        ("--sanity --eps much", "gradient masking: eps is 'much'; give a number"),
        ("--sanity --set restarts=3", "unknown setting 'restarts'"),
        ("--sanity --set steps=few", "steps is 'few'; give a whole number"),
        ("--sanity --from nowhere.safetensors", "nowhere.safetensors"),
        ("--sanity --data nowhere.h5", "nowhere.h5"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: str, why: str) -> None:
    place = () if "--out" in words else ("--out", tmp_path / ("a.json" if "--sanity" in words else "a.h5"))
    assert why in refused("attack", model("standard"), *words.split(), *place)
    assert not list(tmp_path.iterdir())
