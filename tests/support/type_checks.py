"""The type checker of the tests: beartype, for a nested function only where it is first defined.

Each call of an outer function defines its nested ones again. Generating the code of their checks
each time took a tenth of the time of tests that trace or load models.
"""

from collections import Counter
from typing import Any

from beartype import beartype

_defined: Counter[tuple[str, str]] = Counter()


def first(function: Any) -> Any:
    """Check a function or class; of nested functions those that are defined first.

    jaxtyping calls this twice for a definition: for parameters, and for both with the result.
    """
    key = function.__module__, function.__qualname__
    if "<locals>" in key[1]:
        _defined[key] += 1
        if _defined[key] > 2:
            return function
    return beartype(function)
