"""The one exception that means the user, not the program, has to change something."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a file, a flag or a setting, told in one message that a user can act on.

    The message names the file, line or flag, says what was expected and what was found.
    Command lines print it after ``error:`` on standard error and exit with status 2, without a
    traceback; library users catch it as a ``ValueError``.
    """


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name nearest to ``name``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
