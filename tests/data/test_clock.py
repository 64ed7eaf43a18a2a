"""Times of requests and flags, in the unit of a log."""

import pytest

from dien_jax.data.value_text import Clock, whole_number
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast

SECONDS, MILLISECONDS = Clock(False, "seconds"), Clock(False, "milliseconds")
NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("1393545601.0", 1393545601),
        ("1.7e9", NOW),
        ("-3", -3),
        ("7.5", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("9" * 5000, None),
        ("2024-01-31", None),
        ("", None),
    ],
)
def test_whole_numbers_may_have_the_form_of_floats(text, number) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("clock", "text", "time", "earliest"),
    [
        (SECONDS, "2023-11-14T22:13:20.999", NOW, NOW),
        (MILLISECONDS, "2023-11-14 22:13:20.000999", NOW * 1000, NOW),
        (MILLISECONDS, "2023-11-15T00:13:20+02:00", NOW * 1000, NOW),
        (SECONDS, str(NOW), NOW, NOW),
        (MILLISECONDS, f"{NOW}000.0", NOW * 1000, NOW),
        (MILLISECONDS, "5", 5, 0),  # times of a log that starts with small ones
        (SECONDS, "20130201", 20_130_201, 20_000_000),
    ],
)
def test_times_are_in_the_unit_of_the_clock_without_fractions(clock, text, time, earliest) -> None:
    assert clock.read("--test-from", text, earliest) == time


@pytest.mark.parametrize(
    ("clock", "text", "expected"),
    [
        (MILLISECONDS, str(NOW), "looks like seconds"),
        (SECONDS, f"{NOW}000", "looks like milliseconds"),
        (SECONDS, "20130201", "looks like a date without hyphens"),
        (MILLISECONDS, "20130201123000", "looks like a date without hyphens"),
        (SECONDS, "9" * 5000, f"must be a whole number or an ISO date, got '{'9' * 40}'"),
        (SECONDS, "noon", "must be a whole number or an ISO date, got 'noon'"),
    ],
)
def test_numbers_in_another_unit_than_the_log_are_refused(clock, text, expected) -> None:
    earliest = NOW * (1000 if clock is MILLISECONDS else 1)
    with pytest.raises(UserError, match=f"^--test-from {expected}"):
        clock.read("--test-from", text, earliest)
