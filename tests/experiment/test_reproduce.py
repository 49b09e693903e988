"""The whole experiment, small: its folder, and that neither starting again nor being killed changes its numbers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.processes import Command
from featuregen.config.schema import Data
from featuregen.data.sources import load_images
from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import ROOM, TINY, Ran, done, info, refused, trace

KINDS = ("robust", "rand")
FIELDS = (("x", "images"), ("y", "labels"))


@cache
def config() -> Path:
    """Two kinds, the first of them slow enough to be caught at work."""
    path = ROOM / "small.yaml"
    text = TINY.replace("{steps: 3, step_size: 0.3, batch_size: 64, rows: 40}", "{steps: 60, batch_size: 8, rows: 80}")
    for name in ("nonrobust", "robust-noise", "nonrobust-noise", "det"):
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"  {name}:"))
    path.write_text(text + "honesty: {eps: [0.5], rows: 20}\n", encoding="utf-8")
    return path


@cache
def undisturbed() -> tuple[Path, Ran]:
    ran = done("reproduce", "--config", config(), "--out", ROOM / "whole")
    return ROOM / "whole", ran


def results(out: Path) -> Any:
    return json.loads((out / "small" / "results.json").read_text(encoding="utf-8"))


def without_time(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_time(value) for key, value in tree.items() if key not in ("seconds", "timings")}
    return [without_time(value) for value in tree] if isinstance(tree, list) else tree


def digests(out: Path) -> dict[str, str]:
    return {kind: info(out / "small" / f"digits-{kind}.h5")["content_sha256"] for kind in KINDS}


def test_the_folder_of_an_experiment() -> None:
    out, ran = undisturbed()
    names = {path.name for path in (out / "small").iterdir() if path.is_file()}
    sets = {f"digits-{kind}.h5" for kind in KINDS}
    pictures = {"accuracy.png", "curves.png", "honesty.png", "kinds.png"}
    assert names == sets | pictures | {"results.json", "table.md", "report.html"}
    assert ran.out.splitlines()[-1] == f"report: {out / 'small' / 'report.html'}"
    assert ran.err.startswith("note: about ") and "from scratch" in ran.err and "memory about" in ran.err
    table = (out / "small" / "table.md").read_text(encoding="utf-8").replace("\\", "")
    for title in ("D, standard", "D, adversarial", "D_R", "D_rand"):
        assert title in ran.out and title in table
    page = (out / "small" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(pictures) and "http://" not in page


def test_the_numbers_of_an_experiment() -> None:
    out, _ = undisturbed()
    found = results(out)
    assert [row["key"] for row in found["models"]] == ["standard", "adversarial", "sample", *KINDS]
    assert [made["content_sha256"] for made in found["datasets"]] == list(digests(out).values())
    assert [row["eps"] for row in found["honesty"]["rand"]] == [0.5, 1.0]
    for row in found["models"]:
        (one,) = row["runs"]
        assert 1 >= one["clean"] >= one["l2"]["0.5"] >= 0
    shares = found["honesty"]["rand"][0]["judges"]["source model"]
    assert sum(shares.values()) == pytest.approx(1)
    assert all(stage["seconds"] > 0 for stage in found["timings"])


def test_started_again_it_finds_everything_and_says_the_same() -> None:
    out, _ = undisturbed()
    content, before = (out / "small" / "results.json").read_bytes(), trace(out)
    again = done("reproduce", "--config", config(), "--out", out, "--json")
    assert again.json() == json.loads(content) and (out / "small" / "results.json").read_bytes() == content
    after = trace(out)
    kept = [name for name in before if name.endswith((".safetensors", ".h5")) or "judged" in name]
    assert len(kept) > 6 and all(after[name] == before[name] for name in kept)
    assert "training" not in again.err and "report: " in again.err


def test_side_by_side_it_says_the_same(tmp_path: Path) -> None:
    out, plugin = tmp_path / "o", tmp_path / "mine.py"
    plugin.write_text(f"import os\nopen({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'w').close()\n", encoding="utf-8")
    done("--plugin", plugin, "reproduce", "--config", config(), "--out", out, "--set", "runtime.jobs=2")
    # Worker processes load plugins as well.
    assert len(list(tmp_path.glob("*.pid"))) == (1 if os.cpu_count() == 1 else 3)
    assert digests(out) == digests(undisturbed()[0])
    found, wanted = (without_time(results(at))["models"] for at in (out, undisturbed()[0]))
    assert found == wanted


def test_the_same_recipes_on_other_images_have_a_folder_of_their_own(tmp_path: Path) -> None:
    base = load_images(Data())
    split = {
        f"{x}_{part}": getattr(getattr(base, part), name)[:200] for part in ("train", "test") for x, name in FIELDS
    }
    np.savez(tmp_path / "mine.npz", **split)
    done("reproduce", "--config", config(), "--data", tmp_path / "mine.npz", "--out", tmp_path)
    found = json.loads((tmp_path / "small-mine" / "results.json").read_text(encoding="utf-8"))
    assert found["base"]["name"] == "mine" and found["base"]["train_rows"] == 200
    assert "small on mine" in (tmp_path / "small-mine" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "small").exists()


def test_every_dataset_of_an_experiment_verifies() -> None:
    out, _ = undisturbed()
    for kind in KINDS:
        done("verify", out / "small" / f"digits-{kind}.h5")


def test_an_experiment_with_other_settings_is_refused_without_force() -> None:
    out, _ = undisturbed()
    before = (out / "small" / "results.json").read_bytes()
    words = ("reproduce", "--config", config(), "--out", out, "--set", "synthesis.rand.steps=1")
    assert "--force" in refused(*words)
    assert (out / "small" / "results.json").read_bytes() == before


def test_killed_again_and_again_it_comes_to_the_same(tmp_path: Path) -> None:
    out, folder = tmp_path / "o", tmp_path / "o" / "small"
    journal = folder / "digits-robust.h5.partial"
    moments: list[Callable[[], bool]] = [
        (out / "models").is_dir,
        lambda: any((out / "models").glob("*.safetensors")),
        lambda: journal.exists() and journal.stat().st_size > 6000,
        lambda: (folder / "digits-rand.h5").exists(),
        lambda: any((folder / "judged").glob("*")),
        (folder / "results.json").exists,
    ]
    words = ("reproduce", "--config", config(), "--out", out)
    killed = []
    for moment in moments:
        killed.append(Command(tmp_path, *words))
        assert killed[-1].stop_when(moment, signal.SIGKILL) == -signal.SIGKILL
    last = Command(tmp_path, *words)
    assert last.wait() == 0, last.err
    assert any("of 80 rows: resuming from there" in command.err for command in killed)
    assert digests(out) == digests(undisturbed()[0])
    assert without_time(results(out)) == without_time(results(undisturbed()[0]))
    assert (folder / "report.html").exists()
    assert not list(folder.glob("*.h5.*"))


def test_interrupted_by_hand_it_says_so_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "o" / "robust.h5"
    journal = path.with_name("robust.h5.partial")
    words = ("make-robust-dataset", "--config", config(), "--out", path)
    stopped = Command(tmp_path, *words)
    assert stopped.stop_when(lambda: journal.exists() and journal.stat().st_size > 6000, signal.SIGINT) == 130
    assert stopped.out == "" and "Traceback" not in stopped.err
    assert stopped.err.splitlines()[-1].startswith("stopped; everything finished so far is kept")
    assert not path.exists()
    again = Command(tmp_path, *words)
    assert again.wait() == 0 and "rows: resuming from there" in again.err
    assert info(path)["content_sha256"] == digests(undisturbed()[0])["robust"]


def test_interrupted_while_training_it_leaves_no_model(tmp_path: Path) -> None:
    words = ("train", "--config", config(), "--epochs", "500", "--out", tmp_path / "o" / "it.safetensors")
    stopped = Command(tmp_path, *words)
    moment = (tmp_path / "o" / "models").is_dir
    assert stopped.stop_when(moment, signal.SIGINT) == 130
    assert "Traceback" not in stopped.err and not list((tmp_path / "o" / "models").iterdir())


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="jobs need a second core")
def test_side_by_side_killed_and_interrupted_it_comes_to_the_same(tmp_path: Path) -> None:
    out, folder = tmp_path / "o", tmp_path / "o" / "small"
    words = ("reproduce", "--config", config(), "--out", out, "--set", "runtime.jobs=2")
    trained = Command(tmp_path, *words)
    assert trained.stop_when(lambda: any((out / "models").glob("*.safetensors")), signal.SIGKILL) == -signal.SIGKILL
    journal = folder / "digits-robust.h5.partial"
    made = Command(tmp_path, *words)
    assert made.stop_when(lambda: journal.exists() and journal.stat().st_size > 6000, signal.SIGINT) == 130
    assert "Traceback" not in made.err
    last = Command(tmp_path, *words)
    assert last.wait() == 0, last.err
    assert digests(out) == digests(undisturbed()[0])
    found, wanted = (without_time(results(at)) for at in (out, undisturbed()[0]))
    assert (found.pop("config")["runtime"]["jobs"], wanted.pop("config")["runtime"]["jobs"]) == (2, 1)
    assert found == wanted


def test_a_source_from_elsewhere(tmp_path: Path) -> None:
    whole, _ = undisturbed()
    trained = {path: read_model_record(path)["record"]["settings"] for path in (whole / "models").glob("*.safetensors")}
    (robust,) = [path for path, settings in trained.items() if settings["training"]["attack"]]
    given = tmp_path / "given.safetensors"
    given.write_bytes(robust.read_bytes())
    again = done("reproduce", "--config", config(), "--out", tmp_path / "out", "--robust-from", given)
    # Sources say of themselves what they said at home, so that not even the digests differ.
    assert digests(tmp_path / "out") == digests(whole) and "training robust model" not in again.err
    own, other = ({row["key"]: row for row in results(out)["models"]} for out in (whole, tmp_path / "out"))
    assert without_time(other) == without_time(own)


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_a_source_that_is_not_there_is_told_before_any_training(tmp_path: Path, which: str) -> None:
    words = ("reproduce", "--config", config(), "--out", tmp_path, f"--{which}-from", tmp_path / "none.safetensors")
    assert "No model file" in refused(*words) and not (tmp_path / "models").exists()
