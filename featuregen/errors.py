"""What a user can get wrong, as opposed to what is wrong with featuregen."""


class UserError(Exception):
    """Wrong use or bad input. The message names the file, the value and what to do."""


class CheckFailed(Exception):
    """The input was readable, and a check of its content failed."""
