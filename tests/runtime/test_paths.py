"""What is at a path is said in one sentence before anything is opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from featuregen.config.serialize import shown_name
from featuregen.errors import UserError
from featuregen.runtime.marks import check_replaceable
from featuregen.runtime.paths import (
    check_file,
    check_output_file,
    check_output_folder,
    expanded,
    is_file,
    open_file,
    read_bytes,
    read_start,
    read_text,
)
from tests.helpers.foreign_files import put


def place_socket(path: Path) -> None:
    here = Path.cwd()
    # The name of a socket is limited to about a hundred characters.
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(f"{path}.pipe")
    path.symlink_to(f"{path}.pipe")


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "does not exist"),
    "pipe": (os.mkfifo, "is a named pipe"),
    "socket": (place_socket, "is a socket"),
    "folder": (Path.mkdir, "is a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "link to a pipe": (link_to_a_pipe, "is a named pipe"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "circle": (lambda path: path.symlink_to(path.name), "Too many levels"),
}


@pytest.mark.parametrize("read", [open_file, check_file, read_bytes, read_text, lambda path: read_start(path, 10)])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_only_regular_files_are_read(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    make, why = UNREADABLE[kind]
    path = tmp_path / "it"
    make(path)
    assert not is_file(path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value) and why in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "", "file/below"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    path = os.path.join(tmp_path, name)
    assert not is_file(path)
    for read in (open_file, check_file, read_text):
        with pytest.raises(UserError):
            read(path)
    if "\0" in name:
        for refuse in (expanded, check_output_file, check_output_folder):
            with pytest.raises(UserError, match="zero byte"):
                refuse(path)


def test_what_is_read_is_what_is_there(tmp_path: Path) -> None:
    path, link = tmp_path / "it", tmp_path / "link"
    path.write_text("zwölf", encoding="utf-8")
    link.symlink_to(path)
    for each in (path, str(path), link):
        assert is_file(each) and read_text(each) == "zwölf" and read_start(each, 3) == b"zw\xc3"
    assert read_bytes(path, 6) == "zwölf".encode()
    with pytest.raises(UserError, match="larger than"):
        read_bytes(path, 5)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="no text in UTF-8"):
        read_text(path)


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/a.npz") == Path("/somewhere/a.npz") and expanded("a~b") == Path("a~b")
    for path in ("~no-such-user/a.npz", "~no-such-user"):
        with pytest.raises(UserError, match="no home folder ~no-such-user here"):
            expanded(path)


def test_names_in_another_encoding_are_shown() -> None:
    assert shown_name(os.fsdecode(b"caf\xe9")) == "caf�" and shown_name("café") == "café"


# Outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_no_file_is_written_over_another_thing(tmp_path: Path, kind: str) -> None:
    put(kind, tmp_path / "it", tmp_path / "outside")
    with pytest.raises(UserError) as caught:
        check_output_file(tmp_path / "it")
    what = {"link": f"a link to {tmp_path / 'outside'}", "pipe": "a named pipe", "folder": "a folder"}
    assert what[kind.removeprefix("broken ")] in str(caught.value)


def test_where_a_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.link(tmp_path / "file", tmp_path / "other name")
    (tmp_path / "to folder").symlink_to(tmp_path)
    for name in ("nothing", "file", "other name", "no folder/it", "to folder/it"):
        check_output_file(tmp_path / name)
    for name in ("nothing", ".", "to folder/new"):
        check_output_folder(tmp_path / name)
    for name, what in (("file", "a file"), ("to folder", "a link")):
        with pytest.raises(UserError, match=what):
            check_output_folder(tmp_path / name)


OWN = {
    ".json": '{\n "format": "featuregen-flips"',
    ".csv": "model,attack,eps,true,predicted,count\nit,fgsm,0.1,0,1,2\n",
    ".md": "<!-- featuregen -->\n| a |",
    ".html": '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta name="generator" content="featuregen">',
}


@pytest.mark.parametrize("suffix", [*OWN, ".png"])
def test_only_files_with_a_mark_are_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"it{suffix}"
    check_replaceable(path)
    others = ["", "mine", '{"format": "mine"}', "about featuregen", "model,attack", "<html>featuregen"]
    for text in others + [f"x{own}" for own in OWN.values()]:
        path.write_text(text)
        with pytest.raises(UserError, match="was not written by featuregen; move it away, or replace it with --force"):
            check_replaceable(path)
        check_replaceable(path, force=True)
    if suffix in OWN:
        path.write_text(OWN[suffix])
        check_replaceable(path)


def test_force_is_no_leave_to_follow_links(tmp_path: Path) -> None:
    put("link", tmp_path / "it.png", tmp_path / "outside")
    with pytest.raises(UserError, match="it is a link"):
        check_replaceable(tmp_path / "it.png", force=True)
