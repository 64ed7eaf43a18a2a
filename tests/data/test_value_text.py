"""The text of values of typed columns, the types that are refused, and times of requests."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from dien_jax.data.value_text import Clock, check_type, column_text, joined, whole_number
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast

DAY = datetime.date(2024, 1, 31)
NOON = datetime.datetime(2024, 1, 31, 12, 0, 0, 250_999)
NOONS = pa.array([NOON, None])
VIEWS = pa.array(["x", "y"], pa.string_view())
LISTS = pa.array([["a", None], None, [], ["b"]])

TEXTS = [
    (pa.array(["x", None, ""]), "categorical", ["x", None, ""]),
    (pa.array(["x"], pa.large_string()), "categorical", ["x"]),
    (pa.array(["x"], pa.string_view()), "categorical", ["x"]),
    (pa.array([-1, None], pa.int8()), "categorical", ["-1", None]),
    (pa.array([2**64 - 1], pa.uint64()), "categorical", [str(2**64 - 1)]),
    (pa.array([Decimal(10**20)]), "categorical", [str(10**20)]),
    (pa.array([DAY, None]), "categorical", ["2024-01-31", None]),
    (pa.array([DAY], pa.date64()), "categorical", ["2024-01-31"]),
    (pa.array([None, None]), "categorical", [None, None]),
    (pa.array(["x", None]).dictionary_encode(), "categorical", ["x", None]),
    (pa.array([7, None]).dictionary_encode(), "categorical", ["7", None]),
    (pa.DictionaryArray.from_arrays([1, None], VIEWS), "categorical", ["y", None]),
    (LISTS, "multivalued", [["a", None], [], [], ["b"]]),
    (LISTS.slice(1), "multivalued", [[], [], ["b"]]),
    (LISTS.cast(pa.large_list(pa.large_string())), "multivalued", [["a", None], [], [], ["b"]]),
    (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "multivalued", [["1", "2"], []]),
    (pa.array([[DAY]]), "multivalued", [["2024-01-31"]]),
    (pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), "multivalued", [["a"]]),
    (pa.array([["a"]], pa.list_(pa.string_view())), "multivalued", [["a"]]),
    (pa.array([5]), "multivalued", ["5"]),
    (pa.array([0.1, 3, float("nan"), 1e37], pa.float32()), "numeric", ["0.1", "3", None, "1e+37"]),
    (pa.array([0.1, None]), "numeric", ["0.1", None]),
    (pa.array([1.5]).cast(pa.float16()), "numeric", ["1.5"]),
    (pa.array([True, False, None]), "numeric", ["1", "0", None]),
    (pa.array([Decimal("1.50")]), "numeric", ["1.50"]),
    (pa.array([1.7e12, None, 2.5, 1e30]), "time", ["1700000000000", None, "2.5", "1e+30"]),
    (pa.array([DAY]), "time", ["2024-01-31"]),
    (NOONS.cast(pa.timestamp("s"), safe=False), "time", ["2024-01-31 12:00:00.000", None]),
    *(
        (NOONS.cast(pa.timestamp(unit), safe=False), "time", ["2024-01-31 12:00:00.250", None])
        for unit in ("ms", "us", "ns")
    ),
    (pa.array([NOON], pa.timestamp("us", "Asia/Tokyo")), "time", ["2024-01-31 12:00:00.250"]),
]


@pytest.mark.parametrize(("values", "use", "texts"), TEXTS)
def test_values_have_the_text_that_every_csv_file_has(values, use, texts) -> None:
    assert column_text("file: column 'x'", values, use).to_pylist() == texts


USES = {"categorical", "multivalued", "numeric", "time"}
READABLE = {
    pa.string(): USES,
    pa.int64(): USES,
    pa.null(): USES,
    pa.decimal128(20, 0): USES,
    pa.date32(): USES - {"numeric"},
    pa.dictionary(pa.int32(), pa.float64()): {"numeric", "time"},
    pa.float16(): {"numeric", "time"},
    pa.float64(): {"numeric", "time"},
    pa.decimal256(60, 2): {"numeric", "time"},
    pa.bool_(): {"numeric"},
    pa.timestamp("ns"): {"time"},
    pa.timestamp("ms", "UTC"): {"time"},
    pa.list_(pa.int32()): {"multivalued"},
    pa.large_list(pa.date32()): {"multivalued"},
    pa.list_(pa.float64()): set(),
    pa.list_(pa.bool_()): set(),
    pa.list_(pa.list_(pa.string())): set(),
    pa.list_(pa.struct({"a": pa.int32()})): set(),
    pa.struct({"a": pa.int32()}): set(),
    pa.map_(pa.string(), pa.string()): set(),
    pa.binary(): set(),
    pa.binary(16): set(),
    pa.time32("s"): set(),
    pa.time64("us"): set(),
    pa.duration("s"): set(),
    pa.uuid(): set(),
}


@pytest.mark.parametrize("kind", READABLE, ids=str)
def test_each_type_is_read_for_its_uses_and_refused_for_the_others(kind) -> None:
    for use in READABLE[kind]:
        check_type("file: column 'x'", kind, use)
    for use in USES - READABLE[kind]:
        with pytest.raises(UserError, match=r"^file: column 'x' must hold .* found ") as refused:
            check_type("file: column 'x'", kind, use)
        assert str(kind) in str(refused.value)


def test_text_that_is_not_utf8_and_times_out_of_range_are_refused() -> None:
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    latin = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    with pytest.raises(UserError, match="column 'x' cannot be read: Invalid UTF8"):
        column_text("column 'x'", latin, "categorical")
    with pytest.raises(UserError, match=r"column 'x' cannot be read: .* out of bounds"):
        column_text("column 'x'", pa.array([10**18], pa.timestamp("s")), "time")


def test_lists_are_joined_unless_a_value_holds_the_separator() -> None:
    texts = column_text("w", pa.array([["a", None, "b"], None, [], ["c;d"]]), "multivalued")
    assert joined("w", texts, "|").to_pylist() == ["a||b", "", "", "c;d"]
    with pytest.raises(UserError, match="w: a list has the value 'c;d', which holds the separator"):
        joined("w", texts, ";")


# Times of requests and flags

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
