"""Exit codes and messages: errors, signals, full disks."""

from __future__ import annotations

import errno
import signal

import pytest
import torch
import typer

from featuregen import cli
from featuregen.cli import errors
from featuregen.cli.errors import with_exit_code


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("x"), OSError("no number")])
def test_errors_no_user_caused_keep_their_traceback(error: Exception) -> None:
    @with_exit_code
    def command() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        command()
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        ModuleNotFoundError("No module named 'fileinput'"),
    ],
)
def test_too_little_memory_or_a_broken_installation_is_one_sentence(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    @with_exit_code
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command()
    message = capsys.readouterr().err
    assert caught.value.exit_code == 2 and message.startswith("error: ") and len(message.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", [None, "it.png"])
def test_a_full_or_read_only_disk_is_one_sentence(
    number: int, name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    @with_exit_code
    def command() -> None:
        raise OSError(number, "No space", name)

    with pytest.raises(typer.Exit) as caught:
        command()
    message = capsys.readouterr().err
    assert caught.value.exit_code == 2 and message.startswith("error: ") and len(message.splitlines()) == 1
    assert "No space" in message and (name or "a file") in message


def test_a_closed_pipe_is_left_to_typer() -> None:
    @with_exit_code
    def command() -> None:
        raise BrokenPipeError(errno.EPIPE, "pipe")

    with pytest.raises(BrokenPipeError):
        command()


def test_an_interrupt_counts_even_if_cleanup_fails(capsys: pytest.CaptureFixture[str]) -> None:
    @with_exit_code
    def command() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 130 and capsys.readouterr().err.startswith("stopped; ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_counts_if_a_call_turns_it_into_another_error(
    number: int, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @with_exit_code
    def command() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            lost = RuntimeError("Unable to cast Python instance")
        raise lost

    monkeypatch.setattr(errors, "_received_signals", [])
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        errors.install_signal_handlers()
        with pytest.raises(typer.Exit) as caught:
            command()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert caught.value.exit_code == code and capsys.readouterr().err.startswith("stopped; ")


def test_ctrl_c_before_a_command_starts_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(cli, "install_signal_handlers", lambda: None)
    assert cli.main(["info"]) == 130 and capsys.readouterr().err.startswith("stopped; ")


@pytest.mark.parametrize(("error", "code"), [(errors.Terminated, 143), (KeyboardInterrupt, 130)])
@pytest.mark.parametrize("place", ["log", "close_standard_streams"])
def test_a_signal_while_a_command_ends_is_no_traceback(
    error: type[KeyboardInterrupt], code: int, place: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(cli, "install_signal_handlers", lambda: None)
    monkeypatch.setattr(errors if place == "log" else cli, place, interrupted)
    assert cli.main(["info"]) == code and "Traceback" not in capsys.readouterr().err
