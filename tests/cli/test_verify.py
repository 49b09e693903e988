"""`verify`: what a file can prove, and what is found wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py

from tests.helpers.cli_runs import dataset, done, model, run, tiny, trace


def copy(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder / path.name))


def test_a_valid_file_passes_and_is_not_changed(tmp_path: Path) -> None:
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


def test_another_source_fails_the_source_check(tmp_path: Path) -> None:
    done("train", "--config", tiny(), "--epochs", "1", "--out", tmp_path / "other.safetensors")
    ran = run("verify", dataset("det"), "--source", tmp_path / "other.safetensors", "--json")
    failed = {check["check"] for check in ran.json() if not check["ok"]}
    assert ran.code == 1 and "source model" in failed
