"""`info`, `preview`, `verify` and `models`: what a file says, shows and can prove."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest
from PIL import Image

from featuregen.models import read_model_record
from tests.helpers.cli_runs import dataset, done, info, model, refused, run, tiny, trace


def copy(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder / path.name))


def test_info_tells_a_dataset_in_words(tmp_path: Path) -> None:
    told = done("info", dataset("det")).out
    found = info(dataset("det"))
    assert told.startswith("det: ") and "40 of digits" in told and "l2 eps 1" in told
    assert found["content_sha256"] in told and f"{found['success_rate']:.1%}" in told


def test_info_of_a_model_is_its_record() -> None:
    found = done("info", model("robust")).json()
    assert found == read_model_record(model("robust")) and found["architecture"] == "convnet"


def test_the_record_holds_every_setting() -> None:
    found = info(dataset("det"))
    assert found["config"]["sources"]["standard"]["epochs"] == 2 and found["config"]["name"] == "tiny"
    assert found["source_model"]["accuracy"]["clean"] > 0


def test_preview_draws_where_it_is_told(tmp_path: Path) -> None:
    path = copy(dataset("rand"), tmp_path)
    assert done("preview", path).out.strip() == str(tmp_path / "rand.png")
    done("preview", path, "--out", tmp_path / "deep" / "it.png")
    drawn = [Image.open(at).tobytes() for at in (tmp_path / "rand.png", tmp_path / "deep" / "it.png")]
    assert drawn[0] == drawn[1]
    assert "should end in .png" in refused("preview", path, "--out", path)


def test_a_good_file_passes_and_is_left_alone(tmp_path: Path) -> None:
    path = copy(dataset("det"), tmp_path)
    before = trace(tmp_path)
    ran = done("verify", path, "--source", model("standard"))
    lines = ran.out.splitlines()
    assert len(lines) > 10 and all(line.startswith("ok ") for line in lines) and ran.err == ""
    assert any("success recomputed" in line and "0 of 40 predictions differ" in line for line in lines)
    assert trace(tmp_path) == before


def test_verify_in_json() -> None:
    checks = done("verify", dataset("robust"), "--json").json()
    assert all(check["ok"] for check in checks) and {"content_sha256", "labels"} <= {c["check"] for c in checks}


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = copy(dataset("det"), tmp_path)
    with h5py.File(path) as file:
        offset = file["labels"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    ran = run("verify", path)
    assert ran.code == 1 and "FAILED" in ran.out
    assert ran.err.startswith(f"failed: {path}: ") and len(ran.err.splitlines()) == 1
    ran = run("verify", path, "--json")
    assert ran.code == 1 and not all(check["ok"] for check in ran.json())


def test_a_changed_label_is_found(tmp_path: Path) -> None:
    path = copy(dataset("det"), tmp_path)
    with h5py.File(path, "r+") as file:
        file["labels"][3] = (file["labels"][3] + 5) % 10
    ran = run("verify", path)
    assert ran.code == 1 and "labels" in ran.err and "content_sha256" in ran.err


def test_the_wrong_source_is_found() -> None:
    ran = run("verify", dataset("det"), "--source", model("robust"))
    failed = [line for line in ran.out.splitlines() if line.startswith("FAILED")]
    assert ran.code == 1 and "source model" in failed[0] and "source model" in ran.err


@pytest.mark.parametrize("words", [("preview",), ("evaluate", "--out", "{}")], ids=["preview", "evaluate"])
def test_a_file_made_on_a_gpu_is_read_without_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = copy(dataset("det"), tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = file.attrs["config"].replace('"device":"cpu"', '"device":"cuda"')
    assert info(path)["config"]["runtime"]["device"] == "cuda"
    done(words[0], path, *(word.format(tmp_path) for word in words[1:]))


def test_the_table_of_models() -> None:
    told = done("models").out
    for name in ("convnet", "resnet9"):
        assert name in told
    assert "--config" not in told and len(told.splitlines()) > 4


def test_a_source_is_checked_in_the_words_of_the_file(tmp_path: Path) -> None:
    done("train", "--config", tiny(), "--epochs", "1", "--out", tmp_path / "other.safetensors")
    ran = run("verify", dataset("det"), "--source", tmp_path / "other.safetensors", "--json")
    failed = {check["check"] for check in ran.json() if not check["ok"]}
    assert ran.code == 1 and "source model" in failed
