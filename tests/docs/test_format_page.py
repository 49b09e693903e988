"""docs/format.md: every block of code in it is run, on a file made here, and held against what Python sees in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featuregen.data.base_dataset import ImageSplit
from featuregen.runtime.rng import RowRandom
from featuregen.storage.schema import ATTRIBUTES, COLUMNS, CONTENT_ATTRIBUTES, FORMAT_VERSION, Header, column_dtype
from featuregen.storage.writer import Writer
from tests.helpers.dataset_files import BASE_ROWS, CLASSES, CREATED, base_set, failed, header, sealed

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
LANGUAGES = {"python", "r", "octave", "js", "json"}
# No two sides are equal, so that no two axes can be taken for one another.
ROWS, SHAPE = 5, (3, 4, 6)
FILE = "dataset.h5"
# The second image's first channel and the first image's last one; then labels and, where it can be read, the kind.
TAILS = {
    "r": """
cat(c(dim(images), t(images[2, 1, , ]), t(images[1, 3, , ])), "\\n")
cat(labels, "\\n")
cat(kind, classes, "\\n")
""",
    "octave": """
printf ("%d ", size (images));
printf ("%.9g ", squeeze (images(2, 1, :, :))', squeeze (images(1, 3, :, :))');
printf ("\\n");
printf ("%d ", labels);
printf ("\\n");
if (! isequal (first, squeeze (images(1, 1, :, :)))) exit (1); end
""",
    "js": """
const seen = [count, channels, height, width];
for (const [n, c] of [[1, 0], [0, 2]])
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) seen.push(pixel(n, c, y, x));
console.log(seen.join(" "));
console.log(labels.join(" "));
console.log(kind, JSON.stringify(classes));
""",
}  # fmt: skip


def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def block(heading: str) -> str:
    """The first block of code under a heading."""
    found = re.search(rf"^#+ {heading}\n.*?^```(\w+)\n(.*?)^```$", text(), flags=re.DOTALL | re.MULTILINE)
    assert found and "\n## " not in found[0] and found[1] in LANGUAGES, heading
    return found[2]


def make(folder: Path, dtype: str = "uint8", **changes: Any) -> Path:
    """Rows of drawn numbers; a reader keeps no rules."""
    rng = np.random.default_rng(4)
    head: Header = header(kind="something", rows=ROWS, image_shape=SHAPE, dtype=dtype, **changes)
    pixels = rng.random((ROWS, *SHAPE)).astype("f4")
    columns = {name: rng.integers(0, CLASSES, ROWS).astype(column_dtype(name, dtype)) for name in COLUMNS}
    columns["images"] = (pixels * 255 if dtype == "uint8" else pixels).astype(column_dtype("images", dtype))
    with Writer.open(folder / FILE, head) as writer:
        writer.append(columns)
        writer.finish(CREATED)
    return folder / FILE


def ran(words: list[str], folder: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def python(code: str, folder: Path, *words: str, **environment: str) -> list[str]:
    return ran([sys.executable, "-c", code, *words], folder, **environment)


# Readers ------------------------------------------------------------------------------------------


def command(language: str, folder: Path) -> list[str]:
    """What runs a program in another language; the test is skipped where it or its HDF5 is missing."""
    wanted, package = {
        "r": ("Rscript", "r-cran-hdf5r"), "octave": ("octave-cli", "octave"), "js": ("node", "nodejs npm"),
    }[language]  # fmt: skip
    program = shutil.which(wanted)
    if program is None:
        pytest.skip(f"{wanted} is not installed: apt-get install --no-install-recommends {package}")
    if (
        language == "r"
        and subprocess.run([program, "-e", "library(hdf5r)"], capture_output=True, check=False).returncode
    ):
        pytest.skip("R's package hdf5r is not installed: apt-get install --no-install-recommends r-cran-hdf5r")
    if language == "octave":
        return [program, "--no-gui", "reader.m"]
    if language == "js":
        # Node looks for packages beside the program, not where it is started.
        found = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=False)
        places = [Path(place) for place in (os.environ.get("NODE_PATH", ""), found.stdout.strip()) if place]
        modules = next((place for place in places if (place / "h5wasm").is_dir()), None)
        if modules is None:
            pytest.skip("node's package h5wasm is not installed: npm install --global h5wasm")
        (folder / "node_modules").symlink_to(modules)
        return [program, "reader.mjs"]
    return [program, "reader.r"]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize(("heading", "language"), [("R", "r"), ("Octave", "octave"), ("JavaScript", "js")])
def test_other_languages_see_the_same(tmp_path: Path, heading: str, language: str, dtype: str) -> None:
    if (language, dtype) == ("js", "float16"):
        pytest.skip("h5wasm has no 16-bit floats, as the document says")
    words = command(language, tmp_path)
    path = make(tmp_path, dtype)
    (tmp_path / words[-1]).write_text(block(heading) + TAILS[language], encoding="utf-8")
    printed = ran(words, tmp_path)
    with h5py.File(path) as root:
        images = root["images"][:].astype("f8") / root.attrs["value_range"][1]
        labels, kind, classes = root["labels"][:], root.attrs["kind"], json.loads(root.attrs["classes"])
    seen = [float(number) for number in printed[-3 if language != "octave" else -2].split()]
    assert seen[:4] == [ROWS, *SHAPE]
    wanted = np.concatenate([images[1, 0].ravel(), images[0, 2].ravel()])
    np.testing.assert_allclose(seen[4:], wanted, rtol=1e-6)
    assert [int(label) for label in printed[-2 if language != "octave" else -1].split()] == labels.tolist()
    if language != "octave":
        found, _, names = printed[-1].strip().partition(" ")
        assert (found, json.loads(names)) == (kind, classes)


def test_python_sees_the_same(tmp_path: Path) -> None:
    with h5py.File(make(tmp_path)) as root:
        stored, labels = root["images"][:], root["labels"][:]
    tail = "\nimport sys\nprint(json.dumps([images.tolist(), labels.tolist(), kind, classes]))"
    printed = python(block("Python") + tail, tmp_path)
    assert "something (5, 3, 4, 6) the first image is called" in printed[0]
    seen, found, kind, classes = json.loads(printed[-1])
    np.testing.assert_array_equal(seen, stored / 255)
    assert (found, kind, classes) == (labels.tolist(), "something", list(header().classes))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_hugging_face_loads_the_file_as_it_is(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("datasets", reason="needs the test dependency datasets")
    path = make(tmp_path, dtype)
    tail = "\nprint(__import__('json').dumps([rows.column_names, rows.num_rows, rows.to_dict()]))"
    offline = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    names, count, values = json.loads(python(block("Hugging Face") + tail, tmp_path, **offline)[-1])
    assert (sorted(names), count) == (sorted(COLUMNS), ROWS)
    with h5py.File(path) as root:
        for name in COLUMNS:
            np.testing.assert_array_equal(np.asarray(values[name], dtype=root[name].dtype), root[name][:], err_msg=name)


# Digests and draws --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_the_digests_of_the_document_are_those_of_the_file(tmp_path: Path, dtype: str) -> None:
    code = block("Digests")
    assert "featuregen" not in code and len(code.splitlines()) <= 40
    path = make(tmp_path, dtype, citation="Zwölf ‰ “quoted”\nlines", recipe={"seed": 1, "note": "ε 𝄞"})
    with h5py.File(path, "r+") as root:
        stored = [root.attrs["content_sha256"], root.attrs["record_sha256"]]
        assert np.isfinite(root.attrs["success_rate"])
    assert python(code, tmp_path, FILE) == stored
    with h5py.File(path, "r+") as root:
        root["labels"][0] = (root["labels"][0] + 1) % CLASSES
    changed = python(code, tmp_path, FILE)
    assert changed[0] != stored[0] and changed[1] == stored[1]


def test_the_digests_of_unknown_values_and_attributes_are_those_of_the_file(tmp_path: Path) -> None:
    path = make(tmp_path)
    with h5py.File(path, "r+") as root:
        more = {
            "whole": 3,
            "small": np.int16(3),
            "grid": np.arange(6.0).reshape(2, 3),
            "words": ["a", "ö"],
            "big": np.array([1], ">i4"),
        }
        for name, value in more.items():
            root.attrs[name] = value
    sealed(path)
    with h5py.File(path) as root:
        stored = [root.attrs["content_sha256"], root.attrs["record_sha256"]]
    assert not {"content_sha256", "record_sha256"} & {*failed(path)}
    assert python(block("Digests"), tmp_path, FILE) == stored


def test_the_base_digest_of_the_document_is_that_of_a_base_set() -> None:
    images, labels = base_set()
    known: dict[str, Any] = {}
    exec(block("The base set"), known)
    assert known["base_digest"](images, labels) == ImageSplit(images, labels).sha256
    assert known["base_digest"](images[:, :4], labels) != ImageSplit(images, labels).sha256


def test_the_draws_of_the_document_are_those_of_the_rules() -> None:
    known: dict[str, Any] = {}
    exec(block("The rules of a kind"), known)
    for purpose, below in (("start", BASE_ROWS), ("target", CLASSES), ("start", 50_000)):
        wanted = RowRandom(7, purpose).integers(range(40), below).tolist()
        assert [known["drawn"](7, purpose, row, below) for row in range(40)] == wanted
        assert len(set(wanted)) > 2


# What it says -------------------------------------------------------------------------------------


def test_the_tables_name_every_column_and_attribute() -> None:
    tables = re.findall(r"^\| `(\w+)` \| ([^|]+)\| ([^|]*)\|", text(), flags=re.MULTILINE)
    said = {name: mark.strip() for name, _, mark in tables if name in ATTRIBUTES}
    assert set(said) == set(ATTRIBUTES)
    assert {name for name, mark in said.items() if mark == "c"} == set(CONTENT_ATTRIBUTES)
    columns = {name: kind.strip() for name, kind, _ in tables if name in COLUMNS}
    assert columns == {name: "u1, f2 or f4" if not dtype else dtype[1:] for name, dtype in COLUMNS.items()}
    assert f"format version {FORMAT_VERSION}" in text().splitlines()[0]


def test_every_block_is_run_or_is_json() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text(), flags=re.DOTALL | re.MULTILINE)
    headings = ("Python", "R", "Octave", "JavaScript", "Hugging Face", "Digests", "The base set", "The rules of a kind")
    code = [found for language, found in blocks if language != "json"]
    assert code == [block(heading) for heading in headings]
    examples = [json.loads(found) for language, found in blocks if language == "json"]
    assert [min(example) for example in examples] == ["convolution", "licence", "accuracy", "batch", "data"]
