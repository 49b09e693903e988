"""What a user can get wrong, as opposed to what is wrong with featuregen."""

# Letters of a message; what a stranger's file holds could fill a screen, or a disk.
_LONGEST = 900


def printable(text: str) -> str:
    """A text on one line, in which nothing moves a terminal's cursor; what a stranger's file says may be in it."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class _Told(Exception):
    def __init__(self, message: str) -> None:
        text = printable(message)
        half = _LONGEST // 2
        super().__init__(text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}")


class UserError(_Told):
    """Wrong use or bad input. The message names the file, the value and what to do."""


class CheckFailed(_Told):
    """The input was readable, and a check of its content failed."""
