"""One implementation that is measured against others."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """One implementation, ready to run.

    Attributes:
      call: the timed function; it, or waiting for its result, takes until all is computed.
      result: returns the arrays in the oracle's order and shapes.
      versions: of packages besides those of every row.
    """

    call: Callable[[], Any]
    result: Callable[[], Any]
    versions: Mapping[str, str] = {}
