"""Exchanges of processes, played by threads with a service of texts between them.

``tests/distributed/test_refusals.py`` has values and numbers of processes that differ.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from dien_jax.errors import NotFiniteError, UserError
from dien_jax.utils import processes
from dien_jax.utils.processes import SharedError, agree, from_first, on_each, on_first

LIMIT = 20
"""Seconds after which a text that nobody gives is an error."""


class Texts:
    """The texts of ``jax.distributed``."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self._changed:
            assert key not in self.values
            self.values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.values, LIMIT), key
            return self.values[key]

    def key_value_delete(self, key: str) -> None:
        with self._changed:
            del self.values[key]


class Numbers:
    """The number of the next exchange, for each thread."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __next__(self) -> int:
        self._own.exchanges += 1
        return self._own.exchanges - 1


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs a function of the number of a process in three threads; returns all outcomes."""
    own = threading.local()

    def service() -> SimpleNamespace:
        return SimpleNamespace(client=own.texts, process_id=own.number, num_processes=3)

    monkeypatch.setattr(processes, "_service", service)
    monkeypatch.setattr(processes, "_numbers", Numbers(own))

    def run(work: Callable[[int], Any]) -> list[Any]:
        texts = Texts()

        def of_process(number: int) -> Any:
            own.texts, own.number, own.exchanges = texts, number, 0
            try:
                return work(number)
            except (UserError, NotFiniteError) as error:
                return error

        with ThreadPoolExecutor(3) as threads:
            outcomes = list(threads.map(of_process, range(3)))
        assert len(texts.values) <= 3  # earlier texts are removed
        return outcomes

    return run


def test_one_process_exchanges_nothing() -> None:
    assert processes.count() == 1
    assert processes.index() == 0
    assert processes.exchange("text") == ["text"]
    assert on_each(lambda: 1) == on_first(lambda: 1) == from_first(lambda: 1) == 1
    agree({"seed": "0"})
    with pytest.raises(OSError, match=r"^disk$"):  # as it is
        on_each(Mock(side_effect=OSError("disk")))


def test_process_0_decides(together: Callable[..., list[Any]]) -> None:
    def work(number: int) -> list[Any]:
        one = from_first(lambda: {"score": 0.1 + 0.2, "of": number, "none": None})
        return [one, on_first(lambda: f"first {number}"), on_each(lambda: number)]

    value = {"score": 0.1 + 0.2, "of": 0, "none": None}
    first, *others = together(work)
    assert first == [value, "first 0", 0]
    assert others == [[value, None, 1], [value, None, 2]]


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_error_of_one_is_raised_by_all(wrong: int, together: Callable[..., list[Any]]) -> None:
    def work(number: int) -> None:
        on_each(Mock(side_effect=UserError("no data") if number == wrong else None))
        pytest.fail("continued")

    outcomes = together(work)
    assert all(type(outcome) is SharedError for outcome in outcomes)
    expected = [f"process {wrong}: no data"] * 3
    expected[wrong] = "no data"
    assert [str(outcome) for outcome in outcomes] == expected


def test_an_error_reaches_those_that_are_at_another_exchange(together) -> None:
    """A process that fails before an inner exchange meets the others in it."""

    def outer(number: int) -> None:
        def inner() -> None:
            if number == 2:
                raise OSError(28, "No space left on device", "data")
            from_first(lambda: 1)
            pytest.fail("continued")

        on_each(inner)

    said = "data: No space left on device"
    assert [str(outcome) for outcome in together(outer)] == [*[f"process 2: {said}"] * 2, said]


def test_divergence_stays_what_it_is(together: Callable[..., list[Any]]) -> None:
    diverges = Mock(side_effect=NotFiniteError("at step 3"))
    outcomes = together(lambda number: on_first(diverges))
    assert [(type(one), str(one)) for one in outcomes] == [(NotFiniteError, "at step 3")] * 3
