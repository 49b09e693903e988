"""The fuzzer: its inputs do no harm, and readers that would let them are found out."""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest

import featuregen
from featuregen.errors import UserError
from featuregen.runtime.device import tune_malloc
from reliability import fuzz
from reliability.fuzz import counted, pattern_of
from reliability.fuzz_bytes import ODD, changed
from reliability.fuzz_pool import HANG_TIMEOUT, Verdict, verdicts
from reliability.fuzz_targets import Target, input_of, targets

# Inputs of each target in the suite; reliability/fuzz.py opens thousands.
FEW = 40


@pytest.mark.parametrize("name", targets())
def test_mutated_files_do_no_harm(name: str) -> None:
    found = list(verdicts(targets()[name], range(FEW), seed=1))
    assert sorted(verdict.number for verdict in found) == list(range(FEW))
    assert [(verdict.number, verdict.outcome, verdict.words) for verdict in found if verdict.bad] == []
    assert any(verdict.outcome == "refused" for verdict in found) or name in ("journal", "sums", "halfway")


@pytest.mark.parametrize("name", targets())
def test_whole_files_are_taken(name: str, tmp_path: Path) -> None:
    """All but those that are too small to be what they say, which the fuzzer wants quick."""
    for number, files in enumerate(targets()[name].seeds):
        folder = tmp_path / str(number)
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        try:
            targets()[name].open(folder)
        except UserError as error:
            assert name == "checkpoint" and "a net of 2 tensors" in str(error)


def test_the_modules_whose_lines_are_counted_exist() -> None:
    package = Path(featuregen.__file__).parent
    assert [name for target in targets().values() for name in target.modules if not (package / name).is_file()] == []


def test_an_input_is_the_same_again() -> None:
    for name, target in targets().items():
        first, second, other = input_of(target, 0, 3), input_of(target, 0, 3), input_of(target, 1, 3)
        assert first == second and (first != other or name == "sums")


def reader(open_: Callable[[Path], Any]) -> Target:
    return Target("bad", ({"a": pickle.dumps([1])},), {"a": ()}, lambda folder: open_(folder / "a"), ())


def unpickles(path: Path) -> None:
    with path.open("rb") as file:
        pickle.load(file)


def only_if_changed(harm: Callable[[], Any]) -> Callable[[Path], None]:
    """The input as it is must be harmless, or the reader never comes to its first."""
    return lambda path: harm() if path.read_bytes() not in (pickle.dumps([1]), b"?") else None


def fails() -> None:
    raise KeyError("x")


def tells(message: str) -> Callable[[], None]:
    def refuse() -> None:
        raise UserError(message)

    return refuse


def allocates() -> None:
    bytearray(b"x") * (200 << 20)


def mumbles() -> None:
    print("a\x1b[2J")


BAD: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a segfault": (lambda: ctypes.string_at(0), "crash", "SIGSEGV"),
    "an exit": (lambda: os._exit(3), "crash", "exit code 3"),
    "a hang": (lambda: time.sleep(10_000), "hang", "no end"),
    "memory": (allocates, "memory", " MiB touched"),
    "addresses": (lambda: np.empty(1 << 30, np.uint8), "memory", " MiB asked for"),
    "more than there is": (lambda: np.empty(1 << 40, np.uint8), "memory", "memory ran out"),
    "a process": (lambda: subprocess.run(["true"], check=False), "trap", "subprocess.Popen"),
    "a shell": (lambda: os.system("true"), "trap", "os.system"),
    "another file": (lambda: os.open("/etc/hostname", os.O_RDONLY), "trap", "open /etc/hostname"),
    "another name": (lambda: Path("../beside").write_text("x"), "trap", "beside"),
    "code": (lambda: exec("1"), "trap", "exec"),
    "an import": (lambda: __import__("antigravity_of_nowhere"), "trap", "import antigravity_of_nowhere"),
    "a traceback": (fails, "traceback", "KeyError"),
    "an essay": (lambda: tells("a" * 10)(), "refused", "aaaaaaaaaa"),
    "control characters": (mumbles, "unprintable text", "x1b"),
}  # fmt: skip


def test_no_change_of_a_tree_changes_the_next_one() -> None:
    before = repr(ODD)
    for seed in range(3000):
        changed({"a": {"b": [1, 2]}, "c": 3}, Random(seed))
    assert repr(ODD) == before


def test_memory_that_was_kept_before_is_no_hiding_place() -> None:
    tune_malloc()
    kept = [bytearray(b"x") * (64 << 20) for _ in range(8)]
    kept.clear()
    (found,) = verdicts(reader(only_if_changed(allocates)), [0], seed=0)
    assert found.outcome == "memory" and found.touched >= 190 << 20


@pytest.mark.parametrize("case", BAD)
def test_bad_readers_are_found_out(case: str) -> None:
    harm, outcome, words = BAD[case]
    # Only where the reader hangs is it waited for; then two seconds are as good as five minutes.
    timeout = 2 if outcome == "hang" else HANG_TIMEOUT
    (found,) = verdicts(reader(only_if_changed(harm)), [0], seed=0, timeout=timeout)
    assert (found.number, found.outcome) == (0, outcome) and words in found.words, found


def test_a_reader_that_unpickles_is_found_out() -> None:
    target = Target("bad", ({"a": b"cos\ngetcwd\n(tR."},), {"a": ()}, lambda folder: unpickles(folder / "a"), ())
    outcomes = {verdict.outcome for verdict in verdicts(target, range(20), seed=0)}
    assert "trap" in outcomes


def test_a_reader_that_follows_links_is_found_out() -> None:
    """HDF5 opens the other file itself, and Python hears nothing of it."""
    target = io.BytesIO()
    with h5py.File(target, "w") as root:
        root["x"] = h5py.ExternalLink("../decoy/decoy.h5", "x")
    other = io.BytesIO()
    with h5py.File(other, "w") as root:
        root["x"] = 1

    def follows(folder: Path) -> None:
        with h5py.File(folder / "a.h5", locking=False) as root:
            root["x"][()]

    bad = Target(
        "bad", ({"a.h5": target.getvalue()},), {"a.h5": (lambda data, random: data,)}, follows, (),
        lambda: {"decoy.h5": other.getvalue()},
    )  # fmt: skip
    found = list(verdicts(bad, range(4), seed=0))
    assert any("opened the decoy decoy.h5" in verdict.words for verdict in found)


def test_a_worker_that_is_gone_costs_one_input() -> None:
    def crashes(path: Path) -> None:
        if len(path.read_bytes()) % 3 == 0 and path.read_bytes() != b"?":
            ctypes.string_at(0)

    found = list(verdicts(reader(crashes), range(60), seed=0))
    counts = counted(found)
    assert sorted(verdict.number for verdict in found) == list(range(60))
    assert 0 < counts["outcomes"]["crash"] < 60 and counts["violations"] == counts["outcomes"]["crash"]
    assert counts["inputs"] == 60 and len(counts["bad"]) == counts["violations"]


def test_sentences_are_counted_by_what_they_say() -> None:
    assert pattern_of("error: /a/b.h5 has 3 rows, not 'x'.") == pattern_of("error: /c.h5 has 14 rows, not 'y z'.")
    assert pattern_of("error: /a is empty.") != pattern_of("error: /a is damaged.")
    found = [Verdict(0, "refused", "a 1"), Verdict(1, "refused", "a 2"), Verdict(2, "accepted"), Verdict(3, "unmade")]
    counts = counted(found)
    assert (counts["sentences"], counts["violations"]) == (1, 0)


def test_the_command_counts_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, state = tmp_path / "fuzz.json", os.environ["XDG_STATE_HOME"]
    assert fuzz.main(["--targets", "sums,config", "--inputs", "15", "--without-coverage", "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [record["targets"][name]["inputs"] for name in ("sums", "config")] == [15, 15]
    assert "0 violations" in capsys.readouterr().out
    assert fuzz.main(["--only", "config:3"]) == 0
    assert capsys.readouterr().out.startswith("config:3 ")
    assert os.environ["XDG_STATE_HOME"] == state


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--targets", "datasett"], "did you mean 'dataset'"), (["--inputs", "0"], "0"), (["--only", "x"], "dataset:17")],
)
def test_mistakes_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
