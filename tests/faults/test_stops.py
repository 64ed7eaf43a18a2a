"""Commands that are stopped: by a signal, or by a disk that fails, at any change of their files.

After SIGKILL, SIGTERM, ENOSPC, EIO or EACCES the same command is run again: its results are equal
to the last bit, and nothing is left to clean up by hand. Places are evenly apart in the list of
changes that a command makes; each error has places of its own.
"""

import errno
import functools
import itertools
import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from support import faults
from support.fault_programs import PROGRAMS, Preloaded, Program, remove

pytestmark = [pytest.mark.long, pytest.mark.first]
PLACES = {"predict": 2, "prepare": 2}
"""Places at which the ways of ``FEW`` stop a program, if more than one; the variable
DIEN_JAX_FAULT_PLACES sets more, for all ways.

``extend`` writes by the functions of ``prepare``; a kill at any moment of a save of a checkpoint is
tried in tests/runs/test_checkpoints.py.
"""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SIGNALS = {
    signal.SIGKILL: (0, -signal.SIGKILL),
    # The last: before and after the command, when the interpreter starts and ends.
    signal.SIGTERM: (0, 128 + signal.SIGTERM, -signal.SIGTERM),
}
"""Exit statuses of a command that gets a signal."""
WAYS = (*ERRORS, *SIGNALS)
FEW = (errno.ENOSPC, signal.SIGKILL)
ALIKE = ("recommend", "reproduce", "extend", "evaluate", "export")
"""Programs that write by the functions of the others: one of ``FEW`` each, in turn."""


class Whole(NamedTuple):
    """A run of a program that nothing stops: its results, and its changes of files."""

    results: object
    calls: list[str]


@functools.cache
def whole(name: str, preloaded: Preloaded, place: Path) -> Whole:
    """Return the run of a program that nothing stops; leave the place as it was."""
    program, before = PROGRAMS[name], faults.contents(place)
    ending = preloaded.run(place, *program.line)
    assert ending.status == 0, ending.output
    made = Whole(program.results(place / program.out), preloaded.calls())
    remove(place, before)
    return made


def places(calls: list[str], most: int, way: int) -> list[int]:
    """Return numbers of changes, evenly apart, and others for each way."""
    step = len(calls) / most
    chosen = [int(step * (k + (WAYS.index(way) + 0.5) / len(WAYS))) for k in range(most)]
    return [at + 1 for at in sorted({*chosen}) if not calls[at].startswith("remove")]


def hold_to_terms(
    preloaded: Preloaded, place: Path, program: Program, at: int, way: int, expected: object
) -> None:
    """Stop a program at a change of files, then run it again on a sound disk."""
    before = faults.contents(place)
    if way in ERRORS:
        ending = preloaded.run(place, *program.line, at=at, error=way, stays=way != errno.EIO)
    else:
        ending = preloaded.run(place, *program.line, at=at, kill=way)
    calls = preloaded.calls()
    shown = f"{way} at {at}, {calls[at - 1] if len(calls) >= at else 'none'}\n{ending.output}"
    assert "Traceback" not in ending.output, shown
    assert ending.status in SIGNALS.get(way, (0, 1, 2)), f"{ending.status}, {shown}"
    left = program.leftovers(place, before)
    if way in ERRORS and ending.status:
        assert f"{place.name}/" in ending.output or program.out in ending.output, shown
        assert "error: " in ending.output, shown
        assert not left, shown
    if way == signal.SIGTERM:  # what is whole may stay
        assert not [path for path in left if Path(path).parts[0] != program.out], shown
    is_made = not program.keeps and (place / program.out).exists()
    if is_made:  # the command was stopped after its work was done
        assert program.results(place / program.out) == expected, shown
    again = preloaded.run(place, *program.repeated(place))
    if is_made and again.status == 2:  # a dataset folder that exists is not made again
        assert "exists already" in again.output, shown
    else:
        assert again.status == 0, f"{shown}, then again\n{again.output}"
    assert program.results(place / program.out) == expected, shown
    assert not list(place.rglob(".*.partial-*")), shown
    remove(place, before)
    assert faults.contents(place) == before, shown


CASES = [(name, way) for name in PROGRAMS if name not in ALIKE for way in WAYS]
CASES += zip(ALIKE, itertools.cycle(FEW), strict=False)


@pytest.mark.parametrize(("name", "way"), CASES)
def test_stopped_command_is_run_again_with_equal_results(name, way, preloaded, place):
    expected, calls = whole(name, preloaded, place)
    most = PLACES.get(name, 1) if way in FEW else 1
    most = int(os.environ.get("DIEN_JAX_FAULT_PLACES", most))
    for at in places(calls, most, way):
        hold_to_terms(preloaded, place, PROGRAMS[name], at, way, expected)


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_terminated_server_ends_without_a_traceback(seconds, preloaded, place):
    before, line = faults.contents(place), ("serve", "model.dien", "--port=0")
    ending = preloaded.run(place, *line, seconds=seconds, kill=signal.SIGTERM)
    assert ending.status in SIGNALS[signal.SIGTERM], ending
    assert "Traceback" not in ending.output, ending.output
    assert faults.contents(place) == before
