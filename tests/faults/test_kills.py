"""SIGKILL at any moment, then the same command: equal results, and nothing to clean by hand."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import faults
from support.fault_programs import PROGRAMS, Program, remove
from support.preloaded import Preloaded

MOMENTS = int(os.environ.get("DIEN_JAX_FAULT_MOMENTS", "50"))
"""Kills of each program: half of them before a counted change of files, half after a time."""
QUICK = ("predict", "prepare")


def kill(
    preloaded: Preloaded,
    place: Path,
    program: Program,
    expected: object,
    *,
    at: int = 0,
    seconds: float | None = None,
) -> bool:
    """Kill a command and run it again; return whether it was killed before its end."""
    before = faults.contents(place)
    killed = preloaded.run(place, *program.line, at=at, seconds=seconds)
    done = len(preloaded.calls())
    where = f"killed at call {at} or {seconds} s, after {done} calls"
    assert killed.status in (0, -signal.SIGKILL), f"{where}: {killed.output}"
    is_made = not program.keeps and (place / program.out).exists()
    if is_made:  # the command was killed after its work was done
        assert program.results(place / program.out) == expected, where
    again = preloaded.run(place, *program.repeated(place))
    if is_made and again.status == 2:  # a dataset folder that exists is not made again
        assert "exists already" in again.output, where
    else:
        assert again.status == 0, f"{where}: {again.output}"
    assert program.results(place / program.out) == expected, where
    assert not list(place.rglob(".*.partial-*")), where
    remove(place, before)
    assert faults.contents(place) == before, where
    return killed.status != 0


def campaign(preloaded: Preloaded, place: Path, program: Program, moments: int, seed: int) -> int:
    """Kill a program at random moments; return how often it was killed before its end."""
    before = faults.contents(place)
    start = time.monotonic()
    ending = preloaded.run(place, *program.line)
    lasted = time.monotonic() - start
    assert ending.status == 0, ending.output
    calls, expected = len(preloaded.calls()), program.results(place / program.out)
    remove(place, before)
    random, kills = np.random.default_rng(seed), 0
    for number in range(moments):
        if number % 2 == 0:
            at = int(random.integers(1, calls + 1))
            kills += kill(preloaded, place, program, expected, at=at)
        else:
            seconds = float(random.uniform(0, lasted))
            kills += kill(preloaded, place, program, expected, seconds=seconds)
    return kills


@pytest.mark.parametrize("name", QUICK)
def test_killed_command_is_run_again_with_equal_results(
    name: str, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    record_property("fault", f"{name}: killed at some moments")
    assert campaign(preloaded, place, PROGRAMS[name], 2, seed=1) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_killed_command_is_run_again_with_equal_results_at_any_moment(
    name: str, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    for _ in range(MOMENTS):
        record_property("fault", f"{name}: killed")
    assert campaign(preloaded, place, PROGRAMS[name], MOMENTS, seed=0) >= MOMENTS // 2
