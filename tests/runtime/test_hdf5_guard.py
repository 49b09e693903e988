"""HDF5 files that would crash, hang or fill the process that opens them: each is one sentence."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featuregen.data.on_disk import is_image_file
from featuregen.errors import UserError
from featuregen.runtime import hdf5_guard, hdf5_probe, ledger
from featuregen.runtime.hdf5_guard import Hdf5Error, open_hdf5
from featuregen.storage.reader import read_info
from featuregen.storage.schema import COLUMNS, CorruptFile
from reliability.fuzz_traps import Memory
from tests.helpers import broken_hdf5 as broken
from tests.helpers.broken_hdf5 import CHUNKS, GROUP, Change
from tests.helpers.cli_runs import dataset, refused, run
from tests.helpers.dataset_files import failed, one_sentence, write
from tests.helpers.image_files import load, make_arrays

NAMES = tuple(COLUMNS)


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is given up after a second of work."""
    monkeypatch.setattr(hdf5_guard, "_CPU_SECONDS", 1)


def write_set(path: Path) -> None:
    with h5py.File(path, "w") as root:
        for name, values in make_arrays(200).items():
            root.create_dataset(name, data=values, chunks=values.shape if name == "x_train" else None)


def rows_in_chunks(change: Change) -> Change:
    """The change, after the images were stored in two hundred chunks, so that their tree has several nodes."""

    def both(path: Path) -> None:
        broken.chunks_of_a_row(path, "images" if path.name == "a.h5" else "x_train")
        change(path)

    return both


# With what is said of each, whether it is a dataset or a base set.
TREES: dict[str, tuple[Change, str]] = {
    "the names' tree: a child is itself": (
        broken.child_is_itself(GROUP), r"HDF5 crashed \(SIG\w+\) while it read the names of its members",
    ),
    "a chunk tree: a child is itself": (
        broken.child_is_itself(CHUNKS), r"HDF5 crashed \(SIG\w+\) while it read the member '(images|x_train)'",
    ),
    "a chunk tree: a child is the root": (rows_in_chunks(broken.child_is_root(CHUNKS)), r"HDF5 crashed \(SIG\w+\)"),
    "a chunk tree: the right neighbour is itself": (
        broken.sibling_is_itself(CHUNKS, "right"),
        "HDF5 had not read the member '(images|x_train)' after 1 seconds of work",
    ),
    "the names: outside the heap": (broken.name_outside_the_heap, "the names of its members cannot be read"),
    "the names: a heap of terabytes": (
        broken.heap_larger_than_the_file(2**46), "the names of its members cannot be read"
    ),
    "the names: a heap of 300 MB": (
        broken.heap_larger_than_the_file(3 * 10**8), "the names of its members cannot be read"
    ),
    "a thousand attributes": (broken.many_attributes, r"it has \d+ attributes, and at most 1000 are read"),
    "damaged attributes in a heap": (broken.dense_attributes_in_a_circle, "the names of its attributes"),
}  # fmt: skip
TEXTS: dict[str, Change] = {
    "of 4 GB": broken.text_of_gigabytes(0xD9000047),
    "of 100 MB": broken.text_of_gigabytes(10**8),
    "elsewhere": broken.text_elsewhere,
    "in a heap of gigabytes": broken.collection_of_gigabytes,
}
# Accepted by HDF5: neither pointer is ever followed while a file is read.
HARMLESS: dict[str, Change] = {
    "the names' tree: the right neighbour is itself": broken.sibling_is_itself(GROUP, "right"),
    "the names' tree: the left neighbour is itself": broken.sibling_is_itself(GROUP, "left"),
    "a chunk tree: the left neighbour is itself": broken.sibling_is_itself(CHUNKS, "left"),
}


def check_commands(path: Path, said: str) -> None:
    """Both commands that read a dataset, and what they say."""
    told = run("info", path)
    assert told.code in (1, 2) and re.search(said, told.err) and told.err.count("\n") == 1, told
    checked = run("verify", path)
    assert checked.code in (1, 2) and re.search(said, checked.out + checked.err), checked


@pytest.mark.parametrize(("change", "said"), TREES.values(), ids=TREES)
def test_broken_trees_and_heaps_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, said: str
) -> None:
    # A longer sentence would be cut in its middle.
    monkeypatch.chdir(tmp_path)
    path, data = Path("a.h5"), Path("set.h5")
    write(path)
    write_set(data)
    change(data)
    good, memory = dataset("det"), Memory()
    told = refused("verify", good, "--data", data)
    assert re.search(said, told) and told.endswith("give a file with x_train, y_train, x_test, y_test."), told
    change(path)
    check_commands(path, said)
    assert memory.touched() < 64 << 20


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_not_what_it_claims_is_a_sentence(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "a.h5"
    write(path)
    change(path)
    memory = Memory()
    check_commands(path, r"the attribute '\w+' cannot be read")
    with pytest.raises(CorruptFile) as error:
        read_info(path)
    assert "get it again, or make it again" in one_sentence(error)
    assert memory.touched() < 64 << 20


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_pointers_that_no_reader_follows_do_no_harm(tmp_path: Path, change: Change) -> None:
    write(tmp_path / "a.h5")
    write_set(tmp_path / "set.h5")
    change(tmp_path / "a.h5")
    change(tmp_path / "set.h5")
    assert failed(tmp_path / "a.h5") == [] and run("info", tmp_path / "a.h5").code == 0
    assert len(load(tmp_path / "set.h5").train.images_tensor()) == 200


def test_leaves_in_a_circle_are_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_set(path)
    rows_in_chunks(broken.leaves_in_a_circle(CHUNKS))(path)
    assert "HDF5 had not read the member 'x_train'" in refused("verify", dataset("det"), "--data", path)


# Chunks that unpack to something else --------------------------------------------------------------


@pytest.mark.parametrize("size", [2**28, 12001, 11999, 10])
@pytest.mark.parametrize("more", [{}, {"shuffle": True}, {"fletcher32": True}])
def test_a_chunk_that_unpacks_to_more_or_less_is_refused(tmp_path: Path, size: int, more: dict[str, Any]) -> None:
    """To more: HDF5 fills gigabytes. To less: it goes on reading whatever lies behind in memory."""
    path = tmp_path / "set.h5"
    write_set(path)
    broken.unpacks_to("x_train", size, **more)(path)
    memory = Memory()
    with pytest.raises(UserError, match="a chunk of 'x_train' is not 12000 bytes long"):
        load(path)
    assert memory.touched() < 64 << 20


@pytest.mark.parametrize("cut", [0, 5, -3])
def test_a_chunk_packed_with_lzf_is_measured(tmp_path: Path, cut: int) -> None:
    path, content = tmp_path / "set.h5", lzf_packed(bytes(12000))
    write_set(path)
    broken.packed(path, "x_train", content[: cut or None] if cut <= 0 else lzf_packed(bytes(cut)), compression="lzf")
    if cut == 0:
        assert not load(path).train.images_tensor().any()
    else:
        with pytest.raises(UserError, match="a chunk of 'x_train' is not 12000 bytes long"):
            load(path)


def lzf_packed(values: bytes) -> bytes:
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as root:
        data = np.frombuffer(values, "u1") if len(values) > 100 else np.arange(len(values), dtype="u1")
        root.create_dataset("x", data=data, chunks=data.shape, compression="lzf")
        mask, content = root["x"].id.read_direct_chunk((0,))
    # What cannot be packed is stored as it is, which is one run of literals for a few bytes.
    return bytes([len(content) - 1]) + content if mask else bytes(content)


@pytest.mark.parametrize("how", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True},
                                 {"compression": "lzf"}, {"compression": "lzf", "shuffle": True}, {"shuffle": True},
                                 {"fletcher32": True}, {}])  # fmt: skip
@pytest.mark.parametrize("noise", [True, False])
def test_good_chunks_are_accepted(tmp_path: Path, how: dict[str, Any], noise: bool) -> None:
    path, arrays = tmp_path / "set.h5", make_arrays(300, (20, 20, 3))
    if not noise:
        arrays["x_train"] = np.repeat(arrays["x_train"][:, :, :1], 20, 2)
    with h5py.File(path, "w") as root:
        for name, values in arrays.items():
            root.create_dataset(name, data=values, **(how | {"chunks": (7, *values.shape[1:])}))
    assert load(path).train.images_tensor().shape == (300, 3, 20, 20)


def test_a_chunk_shorter_than_the_others_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    broken.chunk_shorter_than_the_others("images")(tmp_path / "a.h5")
    with pytest.raises(CorruptFile, match="a chunk of 'images' is not 1000 bytes long"):
        read_info(tmp_path / "a.h5")


# The other process ---------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that another process has read first."""
    paths: list[str] = []
    ask = hdf5_guard._ask

    def noted(request: dict[str, Any]) -> str | None:
        paths.append(request["path"])
        return ask(request)

    monkeypatch.setattr(hdf5_guard, "_ask", noted)
    # Only what a file system's clock can tell apart is remembered; here, everything.
    monkeypatch.setattr(hdf5_guard, "_TICK", -(10**18))
    yield paths


def test_a_file_is_read_first_once(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "set.h5"
    write_set(path)
    for _ in range(3):
        open_hdf5(path, ()).close()
    assert asked == [str(path)]
    with h5py.File(path, "r+") as root:
        root.attrs["more"] = 1
    open_hdf5(path, ()).close()
    assert asked == [str(path)] * 2


def test_a_file_that_this_process_wrote_is_not_read_first(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "a.h5"
    write(path)
    read_info(path)
    assert not asked
    broken.child_is_itself(GROUP)(path)
    for _ in range(2):
        with pytest.raises(CorruptFile, match="HDF5 crashed"):
            read_info(path)
    assert asked == [str(path)]


def test_a_file_is_read_first_for_what_is_used_of_it(tmp_path: Path, asked: list[str]) -> None:
    """Whether it is a base set is asked of a dataset, too, and that reads no chunks."""
    write(tmp_path / "a.h5")
    broken.child_is_itself(CHUNKS)(tmp_path / "a.h5")
    assert not is_image_file(tmp_path / "a.h5")
    with pytest.raises(CorruptFile, match="HDF5 crashed"):
        read_info(tmp_path / "a.h5")
    assert len(asked) == 2


def test_a_later_run_knows_the_file(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set.h5")
    open_hdf5(tmp_path / "set.h5", NAMES).close()
    monkeypatch.setattr(ledger, "_known", set())
    monkeypatch.setattr(ledger, "_read_bytes", 0)
    open_hdf5(tmp_path / "set.h5", NAMES).close()
    assert len(asked) == 1


def test_a_file_changed_within_a_tick_of_the_clock_is_read_again(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_guard, "_TICK", 10**18)
    write_set(tmp_path / "set.h5")
    for _ in range(2):
        open_hdf5(tmp_path / "set.h5", ()).close()
    assert len(asked) == 2


def server_id() -> int:
    assert hdf5_guard._server
    return hdf5_guard._server.process.pid


def states_of(group: int) -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = place.read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(its_group) == group:
                yield state


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_wait_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr(hdf5_guard, "_CPU_SECONDS", 10_000)
    write(tmp_path / "good.h5")
    write(tmp_path / "a.h5")
    broken.sibling_is_itself(CHUNKS, "right")(tmp_path / "a.h5")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    ask, group = hdf5_guard._Server.ask, []

    def interrupted(server: hdf5_guard._Server, request: dict[str, Any], seconds: float) -> str | None:
        group.append(server.process.pid)
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        return ask(server, request, seconds)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(hdf5_guard._Server, "ask", interrupted)
            with pytest.raises(KeyboardInterrupt):
                read_info(tmp_path / "a.h5")
    finally:
        signal.signal(signal.SIGTERM, before)
    # Killed, but perhaps not gone yet; what nobody has waited for stays a zombie.
    # The deadline ends a hang; no machine is that slow.
    deadline = time.monotonic() + 300
    while set(states_of(group[0])) - {"Z"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert read_info(tmp_path / "good.h5").rows


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    write_set(tmp_path / "set.h5")
    open_hdf5(tmp_path / "set.h5", ()).close()
    os.kill(server_id(), signal.SIGKILL)
    open_hdf5(tmp_path / "set.h5", ()).close()


def test_a_server_that_cannot_start_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set.h5")
    for python, said in ((str(tmp_path / "nothing"), "cannot be started"), ("/bin/false", "too little memory")):
        hdf5_guard._end()
        monkeypatch.setattr(sys, "executable", python)
        with pytest.raises(UserError, match=said):
            load(tmp_path / "set.h5")


def test_a_forked_process_has_a_server_of_its_own(tmp_path: Path) -> None:
    write_set(tmp_path / "set.h5")
    open_hdf5(tmp_path / "set.h5", ()).close()
    before = server_id()

    def opened(answer: Any) -> None:
        open_hdf5(tmp_path / "set.h5", ()).close()
        answer.put(server_id())

    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=opened, args=(answer,))
    process.start()
    assert answer.get(timeout=300) != before
    process.join()
    open_hdf5(tmp_path / "set.h5", ()).close()
    assert server_id() == before


def test_no_module_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("h5py", "numpy", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    write_set(tmp_path / "set.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    hdf5_guard._end()
    open_hdf5(Path("set.h5"), ()).close()
    assert not (tmp_path / "ran").exists()


def test_the_program_imports_no_more_than_it_needs() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print({'torch', 'featuregen'} & set(sys.modules))"
    program = [sys.executable, "-P", "-c", code, hdf5_probe.__file__]
    assert subprocess.run(program, capture_output=True, text=True, check=True, timeout=300).stdout == "set()\n"


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(Hdf5Error, match="no regular file"):
        open_hdf5(tmp_path / "a.h5", NAMES)
    assert "is a named pipe" in refused("info", tmp_path / "a.h5")
    assert "is a named pipe" in refused("verify", tmp_path / "a.h5")
    assert "is a named pipe" in refused("verify", dataset("det"), "--data", tmp_path / "a.h5")


def test_a_file_replaced_while_it_is_opened_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set.h5")
    probe, others = hdf5_guard._probe, [tmp_path / "1.h5"]
    write_set(others[0])
    broken.child_is_itself(GROUP)(others[0])

    def replaced(*words: Any) -> None:
        probe(*words)
        while others:
            os.replace(others.pop(), tmp_path / "set.h5")

    monkeypatch.setattr(hdf5_guard, "_probe", replaced)
    with pytest.raises(UserError, match="HDF5 crashed"):
        load(tmp_path / "set.h5")
