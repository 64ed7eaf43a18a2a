"""Disks that fail: ENOSPC, EIO and EACCES at each change that a command makes to its folder."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import faults
from support.fault_programs import PROGRAMS, Program, remove
from support.preloaded import Preloaded

pytestmark = pytest.mark.long

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
PLACES = {"export": 25, "prepare": 30, "extend": 30, "train": 16, "tune": 10, "reproduce": 3}
"""About how many places are tried of a long program and each error, evenly apart; all of others.
Each error has places of its own.

The variable DIEN_JAX_FAULT_PLACES sets it for every program.
"""
QUICK = ("predict", "prepare")
"""Programs of which a few places are tried without ``-m slow``."""


def whole(preloaded: Preloaded, place: Path, program: Program) -> tuple[object, list[str]]:
    """Return the results of a run without faults, and its calls; leave the place as it was."""
    before = faults.contents(place)
    ending = preloaded.run(place, *program.line)
    assert ending.status == 0, ending.output
    calls, results = preloaded.calls(), program.results(place / program.out)
    remove(place, before)
    return results, calls


def attempt(
    preloaded: Preloaded, place: Path, program: Program, at: int, error: int, expected: object
) -> None:
    """Let one call fail and all later ones, then run the command again on a sound disk."""
    before = faults.contents(place)
    ending = preloaded.run(place, *program.line, at=at, error=error, stays=error != errno.EIO)
    calls = preloaded.calls()
    where = f"{os.strerror(error)} at call {at}, {calls[at - 1] if len(calls) >= at else 'none'}"
    shown = f"{where}\n{ending.output}"
    assert "Traceback" not in ending.output, shown
    assert ending.status in (0, 1, 2), shown
    if ending.status:
        assert f"{place.name}/" in ending.output or program.out in ending.output, shown
        assert "error: " in ending.output, shown
        assert not program.leftovers(place, before), shown
        ending = preloaded.run(place, *program.repeated(place))
        assert ending.status == 0, f"{where}, then again\n{ending.output}"
    assert program.results(place / program.out) == expected, shown
    assert not list(place.rglob(".*.partial-*")), shown
    remove(place, before)


@pytest.mark.parametrize("name", QUICK)
def test_failure_at_some_places_is_one_message_and_nothing_is_lost(
    name: str, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    program = PROGRAMS[name]
    expected, calls = whole(preloaded, place, program)
    places = (1, len(calls) // 2, len(calls) - 2)
    for at, error in zip(places, ERRORS, strict=True):
        record_property("fault", f"{name}: {os.strerror(error)}")
        attempt(preloaded, place, program, at, error, expected)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=os.strerror)
@pytest.mark.parametrize("name", PROGRAMS)
def test_failure_at_every_place_is_one_message_and_nothing_is_lost(
    name: str, error: int, preloaded: Preloaded, place: Path, record_property: Callable
) -> None:
    program = PROGRAMS[name]
    expected, calls = whole(preloaded, place, program)
    most = int(os.environ.get("DIEN_JAX_FAULT_PLACES", PLACES.get(name, len(calls))))
    step = max(1, len(calls) // most)
    first = ERRORS.index(error) * step // len(ERRORS)  # other places for other errors
    for at, call in list(enumerate(calls, start=1))[first::step]:
        if not call.startswith("remove"):
            record_property("fault", f"{name}: {os.strerror(error)}")
            attempt(preloaded, place, program, at, error, expected)
