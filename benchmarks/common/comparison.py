"""Implementations by turns: their times, and their deviations from the oracle."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.common.timing import interleaved_milliseconds, quartile_spread, surroundings


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


def deviation(results: Any, expected: Any) -> float:
    """Return the largest deviation over the largest entry of each array; infinite if not finite."""
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
    """Return rows of the contenders that ran, the oracle first, and the errors of the others."""
    errors, raised = {}, {}
    for name, contender in contenders.items():
        try:
            errors[name] = deviation(contender.result(), expected)
        except Exception as error:  # any error of a compiler: the others are still measured
            raised[name] = error
    calls = {name: contenders[name].call for name in errors}
    times = interleaved_milliseconds(calls, repeats=repeats)
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    around = surroundings()
    rows = [
        {
            **shared,
            "implementation": name,
            "median_ms": medians[name],
            "spread_ms": quartile_spread(times[name]),
            "of_reference": medians[name] / medians["reference"],
            "max_error": errors[name],
            **around,
            "versions": {**around["versions"], **contenders[name].versions},
        }
        for name in times
    ]
    return rows, raised
