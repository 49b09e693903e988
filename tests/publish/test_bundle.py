"""The folder for a collaborator: what it holds, that it is whole, and that what its card says works."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from featuregen.publish.card import front_matter, size_category
from featuregen.publish.layout import Contents, licence_of
from featuregen.runtime.ledger import remember
from featuregen.storage.reader import read_columns, read_info
from tests.helpers import dataset_files as store_files
from tests.helpers import report_cases
from tests.helpers.bundle_folders import FILES, blocks, card, movable, shared, sums_hold
from tests.helpers.cli_runs import dataset, done, info, make, model


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return movable(tmp_path)


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
        "Most labels look wrong to a person",
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
    # As `reproduce` does.
    remember("results", hashlib.sha256(place.read_bytes()).hexdigest())
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
    assert "note: " in ran.err and "so the card has no results" in ran.err
    assert {path.name for path in Path(ran.out.strip()).iterdir()} == FILES


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("MIT", {"license": "mit"}),
        ("CC BY-SA 3.0", {"license": "cc-by-sa-3.0"}),
        (
            "Research use only",
            {"license": "other", "license_name": "research-use-only", "license_details": "Research use only"},
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
    text = front_matter(read_info(path), contents)
    # The same list stands at three columns; an anchor for it is not what every reader of cards follows.
    assert text.count("'2': zwölf") == 3 or text.count("'2': \"zw\\xF6lf\"") == 3
    tree = yaml.safe_load(text)
    assert {name: tree[name] for name in tree if name.startswith("license")} == wanted


@pytest.mark.parametrize(
    ("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (50_000, "10K<n<100K"), (10**12, "100M<n<1B")]
)
def test_sizes_as_the_hub_names_them(rows: int, size: str) -> None:
    assert size_category(rows) == size


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
