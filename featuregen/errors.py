"""Errors that a user can cause, as opposed to bugs in featuregen, and text that is safe to print."""

# Characters of a message: text from somebody else's file could fill a screen, or a disk.
_MAX_LENGTH = 900


def printable(text: str) -> str:
    """The text on one line, with every control character escaped: it may come from somebody else's file."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def one_line(error: BaseException) -> str:
    """The message of an error on one line without its full stop; the name of its type where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class _OneSentenceError(Exception):
    def __init__(self, message: str) -> None:
        text = printable(message)
        half = _MAX_LENGTH // 2
        super().__init__(text if len(text) <= _MAX_LENGTH else f"{text[:half]} … {text[-half:]}")


class UserError(_OneSentenceError):
    """Wrong use or bad input. The message names the file, the value and what to do."""


class CheckFailed(_OneSentenceError):
    """The input was readable, and a check of its content failed."""
