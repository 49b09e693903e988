"""Single flipped bits: every one that changes an array or an attribute is reported, and beside a SHA256SUMS all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import h5py
import pytest

from featuregen.errors import UserError
from featuregen.storage.checksums import SUMS, check_sums
from reliability.bit_flips import Flip, counted, drawn_bits, flipped, judge, main, what_h5py_reads
from tests.helpers.cli_runs import dataset, done, run
from tests.helpers.dataset_files import attribute, header, one_sentence, write

# In the suite; the thousand take ten times as long.
FEW = 100


@pytest.mark.parametrize("flips", [FEW, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_flip_that_matters_is_reported(tmp_path: Path, dtype: str, flips: int) -> None:
    path = tmp_path / "a.h5"
    write(path, header(dtype=dtype))
    before = path.read_bytes()
    found = judge(path, drawn_bits(path, flips, seed=3))
    counts = counted(found)
    assert [flip for flip in found if flip.missed] == []
    assert counts["flips"] == flips and counts["changed"] == counts["changed and reported"] > flips / 20
    assert counts["harmless"] > flips / 20 and counts["missed by SHA256SUMS"] == 0
    assert path.read_bytes() == before


def test_flips_outside_the_arrays_are_reported_too(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    bits = drawn_bits(path, FEW, seed=4, outside=True)
    with h5py.File(path) as root:
        chunks = [array.id.get_chunk_info(n) for array in root.values() for n in range(array.id.get_num_chunks())]
    assert chunks and len(set(bits)) == FEW
    assert not any(chunk.byte_offset <= bit // 8 < chunk.byte_offset + chunk.size for chunk in chunks for bit in bits)
    assert [flip for flip in judge(path, bits) if flip.missed] == []


def bit_of(path: Path, data: bytes) -> int:
    """The first bit of these bytes in the file."""
    at = path.read_bytes().index(data)
    return 8 * at


def test_what_is_counted_as_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path) as root:
        pixels = root["images"].id.get_chunk_info(0).byte_offset
    whole = path.read_bytes()
    assert whole.count(bytes(64)) > 0
    pixel, title, nothing = 8 * pixels, bit_of(path, b"Someone, 2026."), bit_of(path, bytes(64)) + 256
    flips = judge(path, [pixel, title, nothing, 0])
    # The last of them breaks the signature of the file.
    assert [flip.changed for flip in flips] == [True, True, False, True]
    assert [flip.reported for flip in flips] == [True, True, False, True]
    assert all(flip.summed for flip in flips)


def test_a_process_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 2.0 never returns from reading a text of this file; `verify` does not try."""
    path = tmp_path / "a.h5"
    write(path, header(citation="Long. " * 1000))
    data = path.read_bytes()
    heaps = [at for at in range(0, len(data), 8) if data.startswith(b"GCOL\x01", at)]
    sizes = [8 * (at + 24) + 5 for at in heaps]
    flips = judge(path, [*sizes, 0], cpu_limit=1)
    assert [flip.bit for flip in flips] == [*sizes, 0] and len(sizes) > 1
    assert all(flip.changed and flip.reported for flip in flips)


def test_a_verify_that_gives_no_answer_has_missed() -> None:
    silent, blind = Flip(1, True, None, True), Flip(2, True, False, True)
    fine, cautious = Flip(3, True, False, False), Flip(4, True, True, False)
    assert [flip.missed for flip in (silent, blind, fine, cautious)] == [True, True, False, False]
    counts = counted([silent, blind, fine, cautious, Flip(5, False, True, True)])
    assert counts == {
        "flips": 5, "changed": 3, "changed and reported": 1, "harmless": 2, "harmless and reported": 1,
        "missed": 2, "missed by SHA256SUMS": 1,
    }  # fmt: skip


def test_h5py_sees_every_array_and_attribute(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    good = what_h5py_reads(path)
    assert good is not None and {"images", "labels", "@recipe", "@success_rate"} <= set(good)
    assert what_h5py_reads(path, good) == good
    attribute(path, "format_version", 1)
    assert what_h5py_reads(path, good) == good
    with h5py.File(path, "r+") as root:
        root["labels"].attrs["unit"] = "none"
    assert what_h5py_reads(path, good) is None


def test_the_same_value_in_another_type_is_reported(tmp_path: Path) -> None:
    """A flipped sign bit of a type leaves the number as it is."""
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path, "r+") as root:
        version = root.attrs.get_id("format_version").dtype
        root.attrs.create("format_version", 1, dtype="<u8")
    assert version == "<i8"
    found = json.loads(verified(path))
    assert [check["check"] for check in found if not check["ok"]] == ["content_sha256"]


def verified(path: Path) -> str:
    return run("verify", path, "--json").out


# SHA256SUMS ---------------------------------------------------------------------------------------


def listed(path: Path, *lines: str) -> None:
    (path.parent / SUMS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_verify_reads_the_list_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "det.h5"
    path.write_bytes(dataset("det").read_bytes())
    assert SUMS not in done("verify", path).out
    listed(path, f"{'0' * 64}  other.h5", f"{digest(path)}  det.h5")
    assert f"ok      {SUMS}: every byte is as it was" in done("verify", path).out
    data = path.read_bytes()
    path.write_bytes(flipped(data, 8 * data.index(bytes(64)) + 256))
    ran = run("verify", path)
    assert ran.code == 1 and f"FAILED  {SUMS}: the file's bytes give" in ran.out
    assert "content_sha256" not in ran.err


@pytest.mark.parametrize("mark", ["  ", " *", "  ./"])
def test_lists_as_sha256sum_writes_them(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "zwölf sets.h5"
    path.write_bytes(b"anything")
    listed(path, "# a comment", "", f"{digest(path).upper()}{mark}zwölf sets.h5")
    assert [check.ok for check in check_sums(path)] == [True]
    path.write_bytes(b"anythinG")
    assert [check.ok for check in check_sums(path)] == [False]
    listed(path, f"{digest(path)}{mark}sets.h5")
    assert check_sums(path) == []


@pytest.mark.parametrize("style", ["{digest}  {name}", "SHA256 ({name}) = {digest}", "{digest} {name}"])
def test_every_line_that_names_the_file_counts(tmp_path: Path, style: str) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"anything")
    right, wrong = (style.format(digest=each, name="a.h5") for each in (digest(path), "0" * 64))
    for lines, ok in (([right], True), ([right, right], True), ([wrong], False), ([right, wrong], False)):
        listed(path, *lines)
        assert [check.ok for check in check_sums(path)] == [ok]


@pytest.mark.parametrize(
    "line", ["a word", "\ufeff" + "0" * 64 + "  a.h5", "MD5 (a.h5) = " + "0" * 32, "0" * 63 + "  a.h5"]
)
def test_a_list_with_another_line_fails(tmp_path: Path, line: str) -> None:
    """A line that cannot be read may be the very line of this file."""
    path = tmp_path / "a.h5"
    path.write_bytes(b"anything")
    listed(path, f"{digest(path)}  a.h5", line)
    (check,) = check_sums(path)
    assert not check.ok and "line 2 of SHA256SUMS" in check.detail


def test_names_that_sha256sum_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a\\b\nc.h5"
    path.write_bytes(b"anything")
    listed(path, f"\\{digest(path)}  a\\\\b\\nc.h5")
    assert [check.ok for check in check_sums(path)] == [True]


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"anything")
    (tmp_path / SUMS).write_bytes(bytes(2**20 + 1))
    with pytest.raises(UserError, match="larger than 1 MiB") as error:
        check_sums(path)
    one_sentence(error)
    (tmp_path / SUMS).unlink()
    (tmp_path / SUMS).mkdir()
    with pytest.raises(UserError, match="no regular file") as error:
        check_sums(path)
    one_sentence(error)
    (tmp_path / SUMS).rmdir()
    os.mkfifo(tmp_path / SUMS)
    with pytest.raises(UserError, match="no regular file") as error:
        check_sums(path)
    one_sentence(error)


# The command --------------------------------------------------------------------------------------


def test_the_command_prints_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, record = tmp_path / "a.h5", tmp_path / "flips.json"
    write(path)
    assert main([str(path), "--flips", "20", "--seed", "1", "--out", str(record)]) == 0
    out = capsys.readouterr().out
    told = json.loads(record.read_text(encoding="utf-8"))
    assert (told["flips"], told["missed"], told["bits"], told["seed"]) == (20, 0, [], 1)
    assert "      20  flips\n" in out and f"{told['changed']:>8,}  changed\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [(["none.h5"], "No file none.h5"), (["a.h5", "--flips", "0"], "0 flips"), (["text.h5"], "does not pass")],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.h5"))
    Path("text.h5").write_text("no dataset", encoding="utf-8")
    assert main([*words, *([] if "--flips" in words else ["--flips", "3"])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
