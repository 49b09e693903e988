"""docs/sharing.md: every command and script on it, run as two people run them, each in a place of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from featuregen.data.sources import NAMED_SETS
from featuregen.publish.layout import licence_of
from tests.helpers.cli_runs import done, model, refused
from tests.helpers.image_files import make_arrays, save

GUIDE = Path(__file__).parents[2] / "docs" / "sharing.md"
# That commands fit together is tested, not how well a model learns.
QUICK = ("--epochs", "1", "--set", "evaluation.steps=2")
NAME = "digits-det"


def section(title: str) -> str:
    return GUIDE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def lines(title: str) -> list[str]:
    return [line for block in blocks(title, "console") for line in block.splitlines()]


def ran(line: str) -> str:
    """As typed into a shell, in this process; `>` writes what is printed."""
    words, _, target = line.partition(" > ")
    told = done(*shlex.split(words)[1:], *(QUICK if words.startswith("featuregen evaluate") else ())).out
    if target:
        Path(target).write_text(told, encoding="utf-8")
    return told


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done("make-dataset", "det", "--steps", "3", "--set", "sources.standard.epochs=1", "--set", "evaluation.steps=2")
    return tmp_path


def test_the_whole_way_in_under_five_commands(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, scripts = lines("On your side"), lines("On the other side"), blocks("On the other side", "python")
    assert len(here) + len(there) + len(scripts) < 5
    for line in here:
        ran(line)
    named = set(re.findall(r"^\| (`.+?`) \|", section("On your side"), re.MULTILINE))
    files = {name for each in named for name in re.findall(r"`(.+?)`", each)}
    folder = made / "datasets_out" / f"{NAME}-share"
    assert {path.name for path in folder.iterdir()} == files - {"results.json"}
    away = made / "elsewhere" / "sent"
    away.parent.mkdir()
    folder.rename(away)
    shutil.rmtree(made / "datasets_out")
    monkeypatch.chdir(away)
    verify, train = there
    assert "success recomputed" in ran(verify)
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], check=True, capture_output=True)
    [script] = scripts
    quiet = {"HF_HOME": str(made / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **quiet}, capture_output=True, text=True, check=True
    ).stdout
    assert "torch.Size([64, 1, 8, 8])" in told and "num_rows: 1438" in told
    assert f"{NAME}.h5" in ran(train)
    for line in lines("When in doubt"):
        assert "the same, byte for byte" in ran(line)


def test_results_of_ones_own_come_onto_the_card(made: Path) -> None:
    for line in lines("Results of your own"):
        ran(line)
    folder = made / "datasets_out" / f"{NAME}-share"
    [row] = json.loads((made / "evaluation.json").read_text(encoding="utf-8"))["models"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    evaluation = card.split("## Evaluation\n")[1].split("\n## ")[0]
    clean = 100 * np.mean([run["clean"] for run in row["runs"]])
    assert f"| {NAME}.h5 | {clean:.1f} ± " in evaluation and "359 test images, 3 seeds, mean ± " in evaluation
    kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))["models"]
    assert kept == [row | {"file": f"{NAME}.h5"}]
    # Shared on, the figures stay with the set.
    done("share", folder / f"{NAME}.h5", "--out", made / "on")
    assert (made / "on" / "README.md").read_text(encoding="utf-8") == card


def test_the_table_of_licences_is_what_featuregen_knows() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \| `(.+?)` \|$", section("Licence and citation"), re.MULTILINE)
    assert {name: text.partition(" (")[0] for name, text, _ in rows} == {
        name: known.licence for name, known in NAMED_SETS.items()
    }
    assert {name: hub for name, _, hub in rows} == {
        name: licence_of(known.licence).hub for name, known in NAMED_SETS.items()
    }
    assert all(known.citation for known in NAMED_SETS.values())


def base_set(name: str) -> Path:
    """The same images, each as featuregen takes it: arrays in one of two formats, or a folder of pictures."""
    arrays, path = make_arrays(rows=40, shape=(8, 8, 1), classes=4), Path(name)
    if path.suffix == ".npz":
        return save(path, arrays)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for part, values in arrays.items():
                file[part] = values
        return path
    for part in ("train", "test"):
        for row, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            picture = path / part / str(label) / f"{row}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(picture)
    return path


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5", "pictures"])
def test_images_of_ones_own(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Licence and citation are said by who shares; who receives the set can check it with the base set and without."""
    monkeypatch.chdir(tmp_path)
    base = base_set(name)
    short = ("--set", "sources.standard.epochs=1", "--set", "evaluation.steps=2", "--steps", "2")
    done("make-dataset", "det", "--data", base, "--out", "out/mine-det.h5", *short)
    [line] = lines("Licence and citation")
    ran(line.replace("mine.npz", name))
    card = Path("out/mine-det-share/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0\n" in card and "The base set: A. Author: My Images, 2026." in card
    croissant = json.loads(Path("out/mine-det-share/croissant.json").read_text(encoding="utf-8"))
    assert croissant["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert croissant["description"].endswith("The base set: A. Author: My Images, 2026.")
    commands = re.findall(r"^featuregen .+$", card, re.MULTILINE)
    assert [line.split()[1] for line in commands] == ["evaluate", "verify", "remake"]
    base.rename(Path("out/mine-det-share") / name)
    monkeypatch.chdir("out/mine-det-share")
    for line in commands:
        assert line.split()[3:5] == ["--data", name]
        ran(line)
    Path(name).rename(tmp_path / name)
    assert name in refused(*commands[1].split()[1:])
    without = done(*commands[1].replace(f"--data {name}", "").split()[1:])
    assert "mine-det.h5 is not compared with its base images; with --data it will be. " in without.err
    assert "success recomputed" in without.out and "distance" not in without.out
    assert "base images: not compared" in without.out


def test_the_card_of_adversarial_examples_names_only_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of test images, which nothing is to be trained on."""
    done("attack", model("standard"), "--attack", "fgsm", "--eps", "8/255", "--rows", "20", "--out", tmp_path / "a.h5")
    folder = Path(done("share", tmp_path / "a.h5", "--source", model("standard")).out.strip())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "# Adversarial examples of digits" in card
        and "by an attack on the source model, fgsm: linf eps 0.03137" in card
    )
    assert "| accuracy left | " in card and "| success |" not in card
    monkeypatch.chdir(folder)
    commands = re.findall(r"^featuregen .+$", card, re.MULTILINE)
    assert [line.split()[1] for line in commands] == ["verify", "remake"]
    for line in commands:
        ran(line)
    done("share", tmp_path / "a.h5", "--without-source", "--out", tmp_path / "without")
    assert "featuregen remake" not in (tmp_path / "without" / "README.md").read_text(encoding="utf-8")
