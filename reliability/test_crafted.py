"""The trial of crafted inputs: it notices what must not happen, knows every row of the review, and a sample passes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from featuregen.storage.schema import content_digest, record_digest
from reliability import crafted, crafted_review
from reliability.crafted_breaks import ALL_BREAKS, broken, places
from reliability.crafted_case import ANY, Case, Place, Step, case
from reliability.crafted_records import BY_HAND, prepared
from reliability.crafted_runner import Server, Verdict, judge
from reliability.crafted_watch import forbidden
from reliability.crafted_world import SOURCE
from tests.helpers.cli_runs import dataset, done, model, tiny

# A few cases of each class that the code passes.
SAMPLE = (
    "records/shard-list/info", "records/synthesis-none/verify", "records/labels beyond/verify",
    "records/index twice/diff",
    "hdf5/names 65535/info", "hdf5/cut in half/verify", "base sets/labels are NaN/verify", "models/header deep/info",
    "models/record record list/info", "checkpoints/system, zip/evaluate", "checkpoints/huge text, old/info",
    "pictures/half a picture/verify", "arrays/objects/verify", "yaml/tag/dry-run", "sums/wrong/2", "sums/right/2",
    "shards/one twice/merge", "paths/info a folder", "paths/verify missing", "options/no such command",
    "shared/tampered, digests agree/diff", "kept/a model text/evaluate", "disks/no file above 2500/preview",
    "signals/SIGKILL after 0.05/preview", "records/seed-gone/remake", "records/kind-attacked-c/remake",
    "records/classes-surrogate/preview", "records/software-device-esc/verify-source", "hdf5/child is itself/info",
    "checkpoints/laughs-tuple-dictkey, zip/info", "yaml/binary/dry-run", "sums/BSD style wrong sum/2",
    "paths/verify fifo.h5", "shared/tampered, digest left/diff", "shared/forged models in datasets_out/evaluate",
    "kept/a model a FIFO/evaluate", "pictures/a FIFO among the pictures/verify", "paths/verify --data tilde",
    "folders/link a.png.partial to file/preview", "folders/own file a.png/preview",
)  # fmt: skip
# Seconds; only a hang takes as long.
HANG = 40.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(__file__).parents[1], tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the sample needs; the trial makes more, with the checkout under test."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("det.h5", "shard-1.h5", "shard-2.h5", "own/own-det.h5", "robust.h5", "attacked.h5"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(dataset("det"), folder / name)
    for name in (SOURCE, "adversarial.safetensors"):
        shutil.copyfile(model("standard"), folder / name)
    for name in ("tiny.yaml", "workers.yaml"):
        shutil.copyfile(tiny(), folder / name)
    done("export", dataset("det"), "--format", "madry", "--out", folder / "released")
    done("evaluate", dataset("det"), "--out", folder / "evaluated")
    return folder


@pytest.fixture(scope="module")
def by_name() -> dict[str, Case]:
    return {case.name: case for case in crafted.cases_by_hand({})}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_crafted_input_does_no_harm(
    name: str, server: Server, world: Path, by_name: dict[str, Case], tmp_path: Path
) -> None:
    verdict = judge(server, by_name[name], world, tmp_path, HANG)
    assert verdict.made and verdict.problems == [], verdict


# The watch -----------------------------------------------------------------------------------------

_STAND_IN = """
import os, subprocess, sys, time
from pathlib import Path

def main(words):
    return {
        "fine": lambda: print("fine"),
        "traceback": lambda: {}["x"],
        "escapes": lambda: print("\\x1b[2J"),
        "bidi": lambda: print("\\u202e"),
        "no utf-8": lambda: os.write(1, b"\\xff\\n"),
        "long": lambda: print("x" * 301),
        "silent": lambda: 2,
        "two sentences": lambda: print("error: a\\nerror: b", file=sys.stderr) or 2,
        "sentence": lambda: print("error: a", file=sys.stderr) or 2,
        "code": lambda: 7,
        "hang": lambda: time.sleep(1000),
        "fifo": lambda: open("fifo").read(),
        "crash": lambda: os.kill(os.getpid(), 11),
        "memory": lambda: len(bytearray(b"x") * (1100 << 20)),
        "too much": lambda: bytearray(8 << 30),
        "link": lambda: Path("link").write_text("x"),
        "outside": lambda: Path("../o/new").write_text("x"),
        "own": lambda: Path("mine").write_text("x"),
        "own gone": lambda: Path("mine").unlink(),
        "own aside": lambda: Path("mine").rename("mine.2.damaged") and 0,
        "own aside in part": lambda: Path("mine.damaged").write_text("min") and Path("mine").unlink(),
        "page": lambda: Path("a.md").write_text("\\x1b"),
        "left": lambda: subprocess.Popen(["sleep", "1000"], start_new_session=True) and 0,
        "new": lambda: Path("new").write_text("x") and 0,
    }[words[0]]() if words[0] != "fine" else 0
"""
NOTICED = {
    "fine": "", "sentence": "", "new": "", "own aside": "",
    "own aside in part": "a file of the person, 'mine' is gone",
    "traceback": "traceback", "escapes": "control characters on stdout",
    "bidi": "bidirectional", "no utf-8": "no UTF-8", "long": "a line of 301", "silent": "0 sentences",
    "two sentences": "2 sentences", "code": "exit code 7", "crash": "exit code -11", "memory": "MiB at its peak",
    "too much": "traceback", "link": "outside the folder, 'precious.txt' is changed",
    "outside": "outside the folder, 'new' is new",
    "own": "a file of the person, 'mine' is changed", "own gone": "a file of the person, 'mine' is gone",
    "page": "control characters in the new file 'a.md'", "left": "1 processes left running",
}  # fmt: skip


def stand_in(folder: Path) -> Path:
    """A checkout whose commands do what none should."""
    package = folder / "package"
    (package / "featuregen/cli").mkdir(parents=True)
    (package / "featuregen/__init__.py").touch()
    (package / "featuregen/cli/__init__.py").write_text(_STAND_IN, encoding="utf-8")
    return package


@pytest.fixture(scope="module")
def bad_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bad")
    server = Server(stand_in(folder), folder)
    yield server
    server.close()


def prepare(place: Place) -> None:
    place.link("link", place.decoy())
    place.write("mine", "mine")
    place.fifo("fifo")


@pytest.mark.parametrize("word", NOTICED)
def test_what_must_not_happen_is_noticed(word: str, bad_server: Server, tmp_path: Path) -> None:
    verdict = judge(bad_server, case(f"bad/{word}", [word], prepare), tmp_path, tmp_path, HANG)
    if not NOTICED[word]:
        assert verdict.problems == []
    else:
        assert any(NOTICED[word] in problem for problem in verdict.problems), verdict


@pytest.mark.parametrize("word", ["hang", "fifo"])
def test_a_hang_is_noticed_and_ended(word: str, bad_server: Server, tmp_path: Path) -> None:
    verdict = judge(bad_server, case(f"bad/{word}", [word], prepare), tmp_path, tmp_path, timeout=0.3)
    assert verdict.problems == ["no end"]


def test_steps_follow_each_other_and_files_may_be_named_that_change(bad_server: Server, tmp_path: Path) -> None:
    steps = (Step(["own"]), Step(["sentence"], ANY - {2}))
    verdict = judge(bad_server, Case("bad/steps", steps, prepare, ("mine",)), tmp_path, tmp_path, HANG)
    assert verdict.codes == [1, 2] or verdict.codes == [0, 2]
    assert verdict.problems[-1] == "step 2: exit code 2 instead of 0 or 1"
    assert not any("mine" in problem for problem in verdict.problems)


def test_an_input_that_cannot_be_made_is_told(bad_server: Server, tmp_path: Path) -> None:
    verdict = judge(bad_server, case("bad/x", ["fine"], lambda place: place.give("no.h5")), Path("w"), tmp_path)
    assert not verdict.made and "w/no.h5" in verdict.last_line


@pytest.mark.parametrize(
    ("text", "found"),
    [("a\nb\tc × ü 😀", ""), ("\r", "control"), ("\x9b", "control"), ("\u2028", "line sep"), ("\udcff", "surrogates")],
)
def test_characters(text: str, found: str) -> None:
    assert forbidden(text).find(found) >= 0 if found else forbidden(text) == ""


# Cases ---------------------------------------------------------------------------------------------


def test_every_row_of_the_review_has_a_case(by_name: dict[str, Case]) -> None:
    for row, beginnings in crafted_review.ROWS.items():
        for beginning in beginnings:
            if os.getuid() and beginning.startswith("users/"):
                continue
            assert any(name.startswith(beginning) for name in by_name), row


def test_names_are_unique_and_samples_exist(by_name: dict[str, Case]) -> None:
    names = [case.name for case in crafted.cases_by_hand({})]
    assert len(names) == len(set(names)) > 5000
    assert by_name.keys() >= {*SAMPLE}


def test_digests_agree_with_what_is_broken(world: Path, tmp_path: Path) -> None:
    for name in ("seed-gone", "norm-list", "index max", "classes-esc", "five channels"):
        place = Place(tmp_path / name, tmp_path, tmp_path, world)
        place.work.mkdir()
        prepared(*BY_HAND[name])(place)
        with h5py.File(place.work / "a.h5") as file:
            attributes = dict(file.attrs)
            assert attributes["content_sha256"] == content_digest(file, attributes)
            assert attributes["record_sha256"] == record_digest(attributes)


def test_a_break_is_one_rule_and_the_same_again() -> None:
    record = {"a": {"b": [1, {"c": 2}]}, "d": "x"}
    assert len(list(places(record))) == 7
    texts = {name: broken(record, ("a", "b", 1, "c"), name) for name in ALL_BREAKS}
    assert json.loads(texts["gone"]) == {"a": {"b": [1, {}]}, "d": "x"}
    assert json.loads(texts["none"])["a"] == {"b": [1, {"c": None}]}
    assert len(set(texts.values())) == len(ALL_BREAKS)
    assert broken(record, ("d",), "esc") == broken(record, ("d",), "esc")


def test_drawn_cases_are_the_same_again(world: Path) -> None:
    first, second = ([next(crafted.drawn_cases({}, world, seed)).name for seed in range(5)] for _ in range(2))
    assert first == second and len(set(first)) == 5


def test_the_command_samples_tells_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def pretend(server: Server, case: Case, *_: object) -> Verdict:
        ran.append(case.name)
        return Verdict(case.name, ["traceback"] if len(ran) == 3 else [])

    monkeypatch.setattr(crafted, "make_world", lambda *_: tmp_path)
    monkeypatch.setattr(crafted, "judge", pretend)
    monkeypatch.setattr(crafted, "drawn_cases", lambda *_: iter(()))
    out = tmp_path / "out.json"
    words = ["--package", str(stand_in(tmp_path)), "--runs", "60", "--classes", "sums,yaml", "--out", str(out)]
    assert crafted.main(words) == 1
    record = json.loads(out.read_text(encoding="utf-8"))
    assert len(ran) == len(record["runs"]) and sum(count["violations"] for count in record["classes"].values()) == 1
    assert f"{ran[2]}: traceback" in capsys.readouterr().out
    assert crafted.main(words) == 1 and len(ran) == len(record["runs"])
    assert crafted.main([*words[:2], "--only", "sums/wrong/2"]) == 0 and ran[-1] == "sums/wrong/2"


def test_violations_are_counted_by_row_of_the_review() -> None:
    names = ["kept/seconds empty/reproduce", "kept/seconds empty/make", "kept/seconds deep/make"]
    runs = [{"name": name, "problems": ["traceback"] if name == names[1] else []} for name in names]
    rows = crafted_review.violations_by_row(runs)
    assert (rows["seconds/det.json empty"], rows["seconds/det.json deep"], rows["code runs"]) == (1, 0, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "record"], "did you mean 'records'"),
        (["--runs", "0"], "--runs"),
        (["--only", "nosuch"], "nosuch"),
    ],
)
def test_mistakes_are_told(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crafted, "make_world", lambda *_: tmp_path)
    monkeypatch.setattr(crafted, "drawn_cases", lambda *_: iter(()))
    assert crafted.main([*words, "--package", str(stand_in(tmp_path))]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err


def test_a_folder_without_featuregen_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crafted.main(["--package", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err
