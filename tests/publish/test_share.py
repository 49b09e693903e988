"""A folder that is there already, a run that is stopped half way, and what is not shared."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import Command
from featuregen.errors import UserError
from featuregen.publish.facts import evaluation_section
from featuregen.publish.layout import Contents, licence_of, safe_name
from featuregen.runtime.atomic import partial_path
from featuregen.storage.reader import read_info
from tests.helpers import dataset_files as store_files
from tests.helpers import report_cases
from tests.helpers.bundle_folders import FILES, blocks, card, content, movable, shared
from tests.helpers.cli_runs import Ran, dataset, done, info, make, model, refused, run, trace


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return movable(tmp_path)


# Again, and in the place of another ----------------------------------------------------------------


def test_twice_gives_equal_bytes_and_another_folder_is_refused(copy: Path) -> None:
    out = copy.with_name("det-share")
    done("share", copy)
    first = content(out)
    done("share", copy)
    done("share", copy, "--out", copy.with_name("second"))
    assert content(out) == first == content(copy.with_name("second"))
    assert f"{out} holds something else" in refused("share", copy, "--without-source")
    assert content(out) == first
    done("share", copy, "--without-source", "--force")
    assert set(content(out)) == FILES - {"det-source.safetensors"}
    assert "The source model is not in this folder" in card(out)[1]
    assert "--source" not in card(out)[1]
    assert sorted(path.name for path in copy.parent.iterdir()) == ["det-share", "det.h5", "models", "second"]


@pytest.mark.parametrize("place", ["", "other", "det.h5", "det-share"])
def test_other_things_are_never_replaced(copy: Path, place: str) -> None:
    done("share", copy)
    copy.with_name("other").mkdir()
    for folder in ("other", "det-share"):
        (copy.with_name(folder) / "thesis.tex").write_text("long", encoding="utf-8")
    before = trace(copy.parent)
    told = refused("share", copy, "--out", copy.parent / place, "--force")
    assert "never replaced" in told or "is a file" in told
    assert trace(copy.parent) == before


def test_a_shared_folder_can_be_shared_on(tmp_path: Path) -> None:
    shutil.copytree(shared(), tmp_path / "got")
    done("share", tmp_path / "got" / "det.h5", "--out", tmp_path / "on")
    assert content(tmp_path / "on") == content(shared())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), None])
def test_stopped_half_way(copy: Path, error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trace(copy.parent)

    def stopped(*_: Any) -> None:
        if error:
            raise error

    monkeypatch.setattr("featuregen.publish.bundle.write_croissant", stopped)
    if error is None:
        # Another file under its name, once it was checked.
        monkeypatch.setattr("featuregen.experiment.share._results_of", lambda path, *_: make("rand", path, "--force"))
    ran = run("share", copy)
    assert (ran.code, ran.out) == (130 if isinstance(error, KeyboardInterrupt) else 2, "")
    if error is None:
        assert "was replaced while it was shared; share it again." in ran.err
    else:
        assert trace(copy.parent) == before
    assert not copy.with_name("det-share").exists()


def test_killed_it_leaves_no_folder_of_that_name_and_the_next_run_makes_it(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "det-share"
    command = Command(tmp_path, "share", copy)

    def writing() -> bool:
        return partial_path(out).exists()

    assert command.stop_when(writing, signal.SIGKILL) == -signal.SIGKILL
    assert not out.exists()
    done("share", copy)
    assert content(out) == content(shared())


# What is refused -----------------------------------------------------------------------------------


def ran_without_a_trace(copy: Path, *words: str | Path) -> Ran:
    before = trace(copy.parent)
    ran = run("share", copy, *words)
    assert ran.out == "" and trace(copy.parent) == before
    return ran


def test_a_damaged_file_fails_as_in_verify(copy: Path) -> None:
    with store_files.edited(copy) as root:
        root["labels"][3] = (root["labels"][3] + 1) % 10
    ran = ran_without_a_trace(copy)
    assert ran.code == run("verify", copy).code == 1
    assert ran.err.startswith(f"failed: {copy} is not shared: content_sha256 (")


def test_a_liar_is_found_out_by_the_base_set(copy: Path) -> None:
    with store_files.edited(copy) as root:
        root["norm"][:] = root["norm"][:] / 2
    store_files.sealed(copy)
    ran = ran_without_a_trace(copy)
    assert ran.code == 1 and ran.err.startswith(f"failed: {copy} is not shared: distance (40 of 40 rows")


def test_a_liar_is_found_out_by_the_source_model(copy: Path) -> None:
    with store_files.edited(copy) as root:
        root["source_pred"][:] = root["labels"][:]
        root.attrs["success_rate"] = 1.0
    store_files.sealed(copy)
    ran = ran_without_a_trace(copy)
    assert ran.code == 1 and "is not shared: success recomputed (" in ran.err
    done("share", copy, "--without-source")


def test_a_wrong_source_is_refused(copy: Path) -> None:
    held = done("info", model("robust")).json()["weights_sha256"][:12]
    recorded = info(copy)["source_model"]["weights_sha256"][:12]
    ran = ran_without_a_trace(copy, "--source", model("robust"))
    assert (ran.code, ran.err) == (
        2,
        f"error: {model('robust')} is not the source model of {copy}: its weights have sha256 {held}, recorded is "
        f"{recorded}.\n",
    )


def test_no_source_to_be_found_says_what_to_do(copy: Path) -> None:
    models = copy.with_name("models")
    for path in models.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    ran = ran_without_a_trace(copy)
    recorded = info(copy)["source_model"]["weights_sha256"][:12]
    assert ran.code == 2 and ran.err.startswith(f"error: The source model of {copy} (weights sha256 {recorded}) is not")
    assert ran.err.endswith("name its file with --source, or leave it out with --without-source.\n")
    done("share", copy, "--source", model("standard"))
    assert set(content(copy.with_name("det-share"))) == FILES


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("nowhere.h5", "nowhere.h5 does not exist; check its name."),
        ("x.safetensors", "x.safetensors is no dataset; share takes one HDF5 file"),
        ("models", "models is no dataset; share takes one HDF5 file"),
        ("a[1].h5", "rename the file to letters, digits, '.', '-' and '_', ending in .h5, and share it then."),
        ("text.h5", "text.h5 is no HDF5 file; give a file that featuregen wrote."),
        ("det.h5 --source nowhere.safetensors", "No model file nowhere.safetensors: it does not exist."),
        (
            "det.h5 --source x.safetensors --without-source",
            "--without-source leaves out the model that --source x.safetensors names; give one of the two.",
        ),
        ("det.h5 --data mnist.txt", "No image set 'mnist.txt'"),
        ("det.h5 --results nowhere.json", "nowhere.json does not exist; check its name."),
        (
            "det.h5 --results text.h5",
            "text.h5 does not hold the results of `reproduce` or `evaluate --json` (it is not valid JSON).",
        ),
        ("det.h5 --results other.json", "other.json has no results of det.h5, whose content is "),
    ],
)
def test_wrong_words(copy: Path, words: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    Path("text.h5").write_text("text", encoding="utf-8")
    row = {"key": "det", "title": "det", "runs": [], "file": "x.h5", "evaluation": {"steps": 1, "restarts": 1}}
    other = {"format": "featuregen-evaluation", "version": 1, "models": [{**row, "content_sha256": "00"}]}
    Path("other.json").write_text(json.dumps(other), encoding="utf-8")
    shutil.copy(copy, "a[1].h5")
    before = trace(copy.parent)
    assert why in refused("share", *words.split())
    assert trace(copy.parent) == before


def test_a_file_without_a_source_model(tmp_path: Path) -> None:
    """As imported ones are."""
    path = tmp_path / "a.h5"
    shutil.copy(dataset("det"), path)
    with store_files.edited(path) as root:
        root.attrs["source_model"] = "{}"
    store_files.sealed(path)
    told = refused("share", path, "--source", model("standard"))
    assert told == f"error: {path} records no source model to compare with; leave out --source."
    folder = Path(done("share", path).out.strip())
    assert {each.name for each in folder.iterdir()} == {"README.md", "SHA256SUMS", "a.h5", "a.png", "croissant.json"}
    assert "| source model | not recorded |" in card(folder)[1]


def test_a_strangers_names_change_neither_card_nor_commands(tmp_path: Path) -> None:
    """Titles, classes and paths come from a file that anyone may have made."""
    from featuregen.publish.card import write_card

    path = tmp_path / "a.h5"
    head = store_files.header(
        kind="`x`|\n# y",
        classes=("\x1b]0;x\x07", "---\nlicense: mit", "```\n<script>"),
        base={"name": "|a|\n---\n"},
        recipe={"seed": 1, "synthesis": {}, "note": "````\n## no heading"},
        source_model={"settings": {}, "accuracy": 0.7, "weights_sha256": "`|\n"},
    )
    store_files.write(path, head)
    contents = Contents("a.h5", "", "", "", safe_name("/x/'; touch it #.npz"), licence_of("```\n![](x)"), "")
    write_card(tmp_path / "README.md", read_info(path), contents, None)
    top, text = card(tmp_path)
    assert top["license"] == "other" and top["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]["0"]
    assert (
        contents.base == "base-set.npz" and "touch" not in "".join(blocks(text, "console")) and "<script>" not in text
    )
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        "## Files", "## Columns", "## Load", "## Verify", "## Make it again", "## Limits", "## Licence and citation"
    ]  # fmt: skip


def test_a_judge_in_strange_results_stays_text(tmp_path: Path) -> None:
    store_files.write(tmp_path / "a.h5", store_files.header())
    results = report_cases.make_results()
    results["config"]["evaluation"] |= {"steps": 20, "restarts": 1}
    judges = results["honesty"]["det"][2]["judges"]
    judges["<b>\n# judge"] = judges.pop("robust model")
    section = evaluation_section(read_info(tmp_path / "a.h5"), results)
    assert r"- \<b\>\\n\# judge: the true class in 73.1 %" in section and "\n# judge" not in section


def test_a_name_that_other_tools_would_misread_is_refused_before_anything_is_read() -> None:
    from featuregen.publish.bundle import check_name

    for name in ("a b.h5", "*.h5", "-a.h5", "a.hdf", "ä.h5", ".h5", "a\n.h5"):
        with pytest.raises(UserError) as caught:
            check_name(Path(name))
        store_files.one_sentence(caught)
    for name in ("a.h5", "digits-det_2.5.hdf5"):
        check_name(Path(name))
