"""Compare implementations: interleaved times, and deviations from the oracle."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.common.timing import interleaved_milliseconds, quartile_spread, surroundings


class Contender(NamedTuple):
    """One implementation, ready to run.

    Attributes:
      call: the timed function; it computes its result before it returns, or returns JAX arrays.
      result: returns the arrays in the oracle's order and shapes; by default ``call`` does.
      versions: versions of packages that other rows do not name.
    """

    call: Callable[[], Any]
    result: Callable[[], Any] | None = None
    versions: Mapping[str, str] = {}


def deviation(results: Any, expected: Any) -> float:
    """Return the largest error relative to the largest entry of its array; inf if not finite."""
    largest = 0.0
    for pair in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        result, oracle = map(np.asarray, pair)
        assert result.shape == oracle.shape, (result.shape, oracle.shape)
        error = float(np.abs(result - oracle).max() / max(np.abs(oracle).max(), 1e-30))
        largest = max(largest, error if np.isfinite(error) else float("inf"))
    return largest


def measure(
    contenders: Mapping[str, Contender], expected: Any, *, repeats: int, **shared: Any
) -> tuple[list[dict[str, Any]], dict[str, Exception]]:
    """Return a row for each contender that ran, the oracle first, and the others' exceptions."""
    errors, raised = {}, {}
    for name, contender in contenders.items():
        try:
            errors[name] = deviation((contender.result or contender.call)(), expected)
        except Exception as error:  # compilers raise anything; the others are still measured
            raised[name] = error
    calls = {name: contenders[name].call for name in errors}
    times = interleaved_milliseconds(calls, repeats=repeats)
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    rows = [
        {
            **shared,
            "implementation": name,
            "median_ms": medians[name],
            "spread_ms": quartile_spread(times[name]),
            "of_reference": medians[name] / medians["reference"],
            "max_error": errors[name],
            **surroundings(contenders[name].versions),
        }
        for name in times
    ]
    return rows, raised
