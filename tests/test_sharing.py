"""The folder for a collaborator: what it holds, that it is whole, and that what its card says works."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import report_cases
import store_files
import yaml
from cli_runs import ROOM, Ran, dataset, done, info, make, model, refused, run, trace
from processes import Command

from featuregen.errors import UserError
from featuregen.sharing import header
from featuregen.sharing.contents import Contents, licence_of, plain_name
from featuregen.store import read_columns, read_info

FILES = {"README.md", "SHA256SUMS", "croissant.json", "det-source.safetensors", "det.h5", "det.png"}


@cache
def shared() -> Path:
    """A folder that tests look at but never change."""
    out = ROOM / "shared" / "det-share"
    assert done("share", dataset("det"), "--out", out).out == f"{out}\n"
    return out


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The set with its models, to be changed."""
    shutil.copy(dataset("det"), tmp_path / "det.h5")
    shutil.copytree(ROOM / "models", tmp_path / "models")
    return tmp_path / "det.h5"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The header of a card, parsed, and its text."""
    parts = re.fullmatch(r"---\n(.*?\n)---\n(.*)", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert parts
    tree = yaml.safe_load(parts[1])
    assert isinstance(tree, dict)
    return tree, parts[2]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def sums_hold(folder: Path) -> None:
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert listed == sorted({path.name for path in folder.iterdir()} - {"SHA256SUMS"})


# What it holds -------------------------------------------------------------------------------------


def test_the_folder_has_the_file_itself_its_model_and_sums_over_all() -> None:
    folder = shared()
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "det.h5").read_bytes() == dataset("det").read_bytes()
    weights = info(folder / "det.h5")["source_model"]["weights_sha256"]
    assert done("info", folder / "det-source.safetensors").json()["weights_sha256"] == weights
    sums_hold(folder)


def test_the_card_says_what_it_is() -> None:
    found, (top, text) = info(dataset("det")), card(shared())
    assert top["license"] == "cc-by-4.0" and top["pretty_name"] == "D_det of digits"
    assert top["size_categories"] == ["n<1K"] and top["task_categories"] == ["image-classification"]
    assert top["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "det.h5"}]}]
    assert {"adversarial-examples", "det"} <= {*top["tags"]}
    for said in (
        f"{100 * found['success_rate']:.1f} % of the rows",
        "40, made from the 1,438 of digits, train",
        "L2 1 of the base image",
        "white box",
        found["content_sha256"],
        found["source_model"]["weights_sha256"],
        "E. Alpaydin and C. Kaynak",
        "https://creativecommons.org/licenses/by/4.0/",
        "Most labels are not what a person sees",
        "![Ten of the rows](det.png)",
    ):
        assert said in text, said
    for column in h5py.File(dataset("det")):
        assert f"| `{column}` |" in text
    [settings] = blocks(text, "yaml")
    assert yaml.safe_load(settings)["recipe"] == found["recipe"]
    assert "@inproceedings{ilyas2019adversarial," in blocks(text, "bibtex")[0]
    assert "## Evaluation" not in text


def test_every_way_to_load_it_that_the_card_shows_works(tmp_path: Path) -> None:
    """In processes of their own, in the folder, as a reader would copy them."""
    snippets = blocks(card(shared())[1], "python")
    assert len(snippets) == 3
    stored = read_columns(dataset("det"), ["images", "labels"])
    told = "import sys, numpy\nnumpy.savez(sys.argv[1], images=numpy.asarray(images), labels=numpy.asarray(labels))\n"
    path = os.pathsep.join(sys.path)
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for number, snippet in enumerate(snippets):
        out = tmp_path / f"{number}.npz"
        ran = subprocess.run(
            [sys.executable, "-c", f"{snippet}\n{told}", str(out)],
            cwd=shared(), env={**os.environ, "PYTHONPATH": path, **offline},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        with np.load(out) as arrays:
            assert np.array_equal(arrays["labels"], stored["labels"])
            wanted = stored["images"] / np.float32(255) if arrays["images"].dtype == np.float32 else stored["images"]
            assert np.array_equal(arrays["images"], wanted)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_hugging_face_datasets_reads_every_column_and_the_names_of_the_classes(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("rand", tmp_path / "rand.h5", "--dtype", dtype, "--source", model("standard"))
    folder = Path(done("share", tmp_path / "rand.h5", "--source", model("standard")).out.strip())
    assert folder == tmp_path / "rand-share"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets: Any = import_module("datasets")
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).with_format("numpy")
    columns = read_columns(tmp_path / "rand.h5", data.column_names)
    assert len(columns) == 8 and len(data) == 40
    for name, values in columns.items():
        # It hands out every whole number as int64, and halves as float32.
        assert data.features[name].dtype == values.dtype.name
        assert np.array_equal(np.asarray(data[name][:]), values), name
    assert data.features["labels"].names == [str(digit) for digit in range(10)]
    assert tuple(data.features["images"].shape) == (1, 8, 8)


# In a process of its own: absl, which it imports, leaves a handler of log messages behind, and who next sets up logging
# would close pytest's standard error with it.
_CROISSANT = """
import json, logging, sys
import mlcroissant
told = []
keep = logging.Handler(logging.WARNING)
keep.emit = lambda record: told.append(record.getMessage())
logging.getLogger().addHandler(keep)
found = mlcroissant.Dataset(sys.argv[1]).metadata
sets = {each.uuid: each for each in found.record_sets}
classes = {line["classes/label"]: line["classes/name"] for line in sets["classes"].data}
json.dump({
    "told": told + sorted(found.ctx.issues.errors) + sorted(found.ctx.issues.warnings),
    "files": {file.name: [file.sha256, file.content_size] for file in found.file_objects},
    "classes": {str(label): name for label, name in classes.items()},
    "shapes": {field.name: field.array_shape for field in sets["rows"].fields},
    "columns": [field.source.extract.column for field in sets["rows"].fields],
}, sys.stdout)
"""


def test_croissant_is_accepted_without_a_warning() -> None:
    words = [sys.executable, "-c", _CROISSANT, str(shared() / "croissant.json")]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert not found["told"]
    assert set(found["files"]) == {"det.h5", "det-source.safetensors", "det.png"}
    for name, (digest, size) in found["files"].items():
        whole = (shared() / name).read_bytes()
        assert digest == hashlib.sha256(whole).hexdigest() and size == f"{len(whole)} B"
    assert found["classes"] == {str(n): str(n) for n in range(10)}
    assert set(found["shapes"]) == {*h5py.File(dataset("det"))} == {*found["columns"]}
    assert found["shapes"]["images"] == "1,8,8"


def test_results_that_list_this_very_set_are_told(copy: Path) -> None:
    results = report_cases.make_results()
    place = copy.with_name("results.json")
    results["config"]["evaluation"] |= {"steps": 20, "restarts": 1}
    place.write_text(json.dumps(results, indent=1), encoding="utf-8")
    without = Path(done("share", copy, "--out", copy.with_name("without")).out.strip())
    assert "## Evaluation" not in card(without)[1] and not (without / "results.json").exists()
    made = next(each for each in results["datasets"] if each["kind"] == "det")
    made["content_sha256"] = info(copy)["content_sha256"]
    place.write_text(json.dumps(results, indent=1), encoding="utf-8")
    folder = Path(done("share", copy, "--out", copy.with_name("with")).out.strip())
    section = card(folder)[1].split("## Evaluation")[1].split("## ")[0]
    assert section.count("\n| D") == 3 and "D\\_det" in section and "D\\_R" not in section
    assert "360 test images, 3 seeds" in section and "robust model: the true class in" in section
    assert (folder / "results.json").read_bytes() == place.read_bytes()
    sums_hold(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "featuregen-results", "version": 1, "datasets": [7]}'])
def test_a_broken_file_of_results_is_left_out_and_told(copy: Path, text: str) -> None:
    copy.with_name("results.json").write_text(text, encoding="utf-8")
    ran = done("share", copy)
    assert "note: " in ran.err and "the card has none" in ran.err
    assert {path.name for path in Path(ran.out.strip()).iterdir()} == FILES


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("MIT", {"license": "mit"}),
        ("CC BY-SA 3.0", {"license": "cc-by-sa-3.0"}),
        (
            "Research use only",
            {
                "license": "other",
                "license_name": "research-use-only",
                "license_details": "Research use only",
            },
        ),
        ("none stated by its authors", {"license": "unknown"}),
        ("not stated in the .npz file", {"license": "unknown"}),
        ("", {"license": "unknown"}),
    ],
)
def test_licences_as_the_hub_names_them(tmp_path: Path, licence: str, wanted: dict[str, str]) -> None:
    path = tmp_path / "a.h5"
    store_files.write(path, store_files.header())
    contents = Contents("a.h5", "", "", "", "", licence_of(licence), "")
    text = header.yaml_header(read_info(path), contents).strip().strip("-")
    # The same list stands at three columns; an anchor for it is not what every reader of cards follows.
    assert text.count("'2': zwölf") == 3 or text.count("'2': \"zw\\xF6lf\"") == 3
    tree = yaml.safe_load(text)
    assert {name: tree[name] for name in tree if name.startswith("license")} == wanted


@pytest.mark.parametrize(
    ("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (50_000, "10K<n<100K"), (10**12, "100M<n<1B")]
)
def test_sizes_as_the_hub_names_them(rows: int, size: str) -> None:
    assert header.size_category(rows) == size


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

    monkeypatch.setattr("featuregen.sharing.folder.write_croissant", stopped)
    if error is None:
        # Another file under its name, once it was checked.
        monkeypatch.setattr("featuregen.pipeline.share._results_of", lambda path, *_: make("rand", path, "--force"))
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
        return any(path.name != out.name for path in tmp_path.glob("det-share*"))

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
    assert ran.err.startswith(f"failed: {copy} is not shared: content_sha256 (arrays and content attributes give ")


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
    assert (ran.code, ran.err) == (
        2,
        f"error: The source model of {copy} (weights sha256 {recorded}) is not in {models}; name its file with "
        "--source, or leave it out with --without-source.\n",
    )
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
        ("det.h5 --results nowhere.json", "Cannot read nowhere.json: No such file or directory."),
        (
            "det.h5 --results text.h5",
            "text.h5 does not hold the results of `featuregen reproduce` or `featuregen evaluate",
        ),
        ("det.h5 --results other.json", "other.json has no results of det.h5, whose content is "),
    ],
)
def test_wrong_words(copy: Path, words: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    Path("text.h5").write_text("text", encoding="utf-8")
    other = {"format": "featuregen-evaluation", "version": 1, "models": [{"key": "det", "content_sha256": "00"}]}
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
    from featuregen.sharing.card import write_card

    path = tmp_path / "a.h5"
    head = store_files.header(
        kind="`x`|\n# y",
        classes=("\ud800", "---\nlicense: mit", "```\n<script>"),
        base={"name": "|a|\n---\n"},
        recipe={"synthesis": "no settings", "note": "````\n## no heading"},
        source_model={"settings": [], "accuracy": 7, "weights_sha256": "`|\n"},
    )
    store_files.write(path, head)
    contents = Contents("a.h5", "", "", "", plain_name("/x/'; touch it #.npz"), licence_of("```\n![](x)"), "")
    write_card(tmp_path / "README.md", read_info(path), contents, None)
    top, text = card(tmp_path)
    assert top["license"] == "other" and top["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]["0"]
    assert (
        contents.base == "base-set.npz" and "touch" not in "".join(blocks(text, "console")) and "<script>" not in text
    )
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        "## Files", "## Columns", "## Load", "## Verify", "## Make it again", "## Limits", "## Licence and citation"
    ]  # fmt: skip


def test_a_name_that_other_tools_would_misread_is_refused_before_anything_is_read() -> None:
    from featuregen.sharing import check_name

    for name in ("a b.h5", "*.h5", "-a.h5", "a.hdf", "ä.h5", ".h5", "a\n.h5"):
        with pytest.raises(UserError) as caught:
            check_name(Path(name))
        store_files.one_sentence(caught)
    for name in ("a.h5", "digits-det_2.5.hdf5"):
        check_name(Path(name))


# The other side ------------------------------------------------------------------------------------


def test_the_collaborators_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder alone, elsewhere: checked, verified with the model that came along, loaded twice, trained on."""
    shutil.copytree(shared(), tmp_path / "det")
    monkeypatch.chdir(tmp_path / "det")
    first, second = [line for block in blocks(card(Path())[1], "console") for line in block.splitlines()][1:3]
    subprocess.run(first.split(), check=True, capture_output=True)
    verified = done(*second.split()[1:]).out
    assert "FAILED" not in verified and "success recomputed" in verified and "source model" in verified
    trained = done("evaluate", "det.h5", "--out", tmp_path / "out", "--json").json()
    assert 0 <= trained["models"][0]["runs"][0]["clean"] <= 1
    sums_hold(Path())
