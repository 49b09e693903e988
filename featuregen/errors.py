"""Errors that a user can cause, as opposed to bugs in featuregen, and text that is safe to print."""

from __future__ import annotations

from collections.abc import Iterable

# Characters of a printed line: text from somebody else's file could fill a screen, or a disk.
MAX_LINE = 300
# Of a sentence: what is printed before it, such as "process 3: error: ", must fit as well.
_MAX_SENTENCE = 275
# Of a library's message inside a sentence, which has to leave room for the file and what to do.
_MAX_REASON = 80
_MEMORY_PHRASES = (
    "can't allocate memory",
    "annot allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
)


def printable(text: object, limit: int | None = MAX_LINE) -> str:
    """The text on one line, cut in the middle, with everything escaped that a terminal or a page would interpret.

    It may come from somebody else's file. Control characters, escape sequences, line breaks, marks that change the
    direction of writing, and halves of surrogate pairs are escaped; `limit` None leaves the length alone.
    """
    words = shortened(str(text), limit)
    if not words.isprintable():
        words = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
    return shortened(words, limit)


def shortened(text: str, limit: int | None) -> str:
    """The text with its middle left out where it is longer than `limit`."""
    if limit is None or len(text) <= limit:
        return text
    kept = limit - 3
    return f"{text[: kept - kept // 2]} … {text[len(text) - kept // 2 :]}"


def join_lines(lines: Iterable[object]) -> str:
    """A text of several lines, each of them printable: a line break inside one of them does not begin another."""
    return "\n".join(printable(line) for line in lines)


def one_line(error: BaseException) -> str:
    """The message of an error on one line without its full stop; the name of its type where it has none."""
    return printable(" ".join(str(error).split()).rstrip("."), _MAX_REASON) or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, or of torch on any device, means that memory ran out."""
    # By its name, since torch need not be loaded.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _MEMORY_PHRASES)


class _OneSentenceError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(printable(message, _MAX_SENTENCE))


class UserError(_OneSentenceError):
    """Wrong use or bad input. The message names the file, the value and what to do."""


class CheckFailed(_OneSentenceError):
    """The input was readable, and a check of its content failed."""
