"""SIGKILL or SIGTERM at any moment, then the same command: equal results, nothing to clean by hand.

After SIGTERM nothing is half-written even before the command is run again.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import faults
from support.fault_programs import PROGRAMS, Program, remove
from support.preloaded import Preloaded

pytestmark = pytest.mark.long

MOMENTS = int(os.environ.get("DIEN_JAX_FAULT_MOMENTS", "50"))
"""Kills of each program: half of them before a counted change of files, half after a time."""
LONG = ("export", "train", "tune", "reproduce")
"""Programs that get SIGTERM at a fifth of the moments."""
QUICK = ("predict", "prepare")
SIGNALS = {int(signal.SIGKILL): "killed", int(signal.SIGTERM): "terminated"}
ENDINGS = {
    signal.SIGKILL: (0, -signal.SIGKILL),
    # The last: before and after the command, when the interpreter starts and ends.
    signal.SIGTERM: (0, 128 + signal.SIGTERM, -signal.SIGTERM),
}
"""Exit statuses of a command that gets a signal."""
SECONDS_OF_SERVER = 8
"""Time in which a server has started, compiled its programs and answers."""


def kill(
    preloaded: Preloaded, place: Path, program: Program, expected: object, **moment: Any
) -> bool:
    """Stop a command and run it again; return whether it was stopped before its end.

    ``moment`` has ``at`` or ``seconds``, and ``kill``, of :meth:`Preloaded.run`.
    """
    before = faults.contents(place)
    killed = preloaded.run(place, *program.line, **moment)
    where = f"{moment}, after {len(preloaded.calls())} calls: {killed.output}"
    assert killed.status in ENDINGS[moment["kill"]], f"{killed.status}, {where}"
    if moment["kill"] != signal.SIGKILL:
        assert "Traceback" not in killed.output, where
        left = program.leftovers(place, before)
        assert not [path for path in left if Path(path).parts[0] != program.out], where
    is_made = not program.keeps and (place / program.out).exists()
    if is_made:  # the command was stopped after its work was done
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


def campaign(
    preloaded: Preloaded, place: Path, program: Program, moments: int, number: int, seed: int
) -> int:
    """Stop a program by a signal at random moments; return how often it was before its end."""
    before = faults.contents(place)
    start = time.monotonic()
    ending = preloaded.run(place, *program.line)
    lasted = time.monotonic() - start
    assert ending.status == 0, ending.output
    calls, expected = len(preloaded.calls()), program.results(place / program.out)
    remove(place, before)
    random, kills = np.random.default_rng(seed), 0
    for moment in range(moments):
        if moment % 2 == 0:
            when: dict[str, Any] = {"at": int(random.integers(1, calls + 1))}
        else:
            when = {"seconds": float(random.uniform(0, lasted))}
        kills += kill(preloaded, place, program, expected, **when, kill=number)
    return kills


@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS.get)
@pytest.mark.parametrize("name", QUICK)
def test_stopped_command_is_run_again_with_equal_results(
    name: str, number: int, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    record_property("fault", f"{name}: {SIGNALS[number]} at some moments")
    assert campaign(preloaded, place, PROGRAMS[name], 2, number, seed=1) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS.get)
@pytest.mark.parametrize("name", PROGRAMS)
def test_stopped_command_is_run_again_with_equal_results_at_any_moment(
    name: str, number: int, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    is_few = number == signal.SIGTERM and name in LONG
    moments = max(1, MOMENTS // 5) if is_few else MOMENTS
    for _ in range(moments):
        record_property("fault", f"{name}: {SIGNALS[number]}")
    assert campaign(preloaded, place, PROGRAMS[name], moments, number, seed=0) >= moments // 2


@pytest.mark.slow
def test_stopped_server_ends_without_a_traceback_at_any_moment(
    preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    before, random, number = faults.contents(place), np.random.default_rng(0), signal.SIGTERM
    for seconds in random.uniform(0, SECONDS_OF_SERVER, MOMENTS):
        record_property("fault", f"serve: {SIGNALS[number]}")
        line = ("serve", "model.dien", "--port=0")
        ending = preloaded.run(place, *line, seconds=float(seconds), kill=number)
        assert ending.status in ENDINGS[number], f"{seconds} s: {ending}"
        assert "Traceback" not in ending.output, f"{seconds} s: {ending.output}"
        assert faults.contents(place) == before
