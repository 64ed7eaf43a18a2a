"""Raw ids and values are read as the logs were."""

import dataclasses
import datetime

import numpy as np
import pytest
from support import small_dataset

from dien_jax.data.dataset import open_dataset
from dien_jax.data.schema import Feature
from dien_jax.data.value_text import as_text
from dien_jax.data.vocabularies import UserEvents, Vocabularies
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast

PRICE = Feature("price", "numeric", mean=10.0, deviation=2.5)


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> Vocabularies:
    data = open_dataset(small_dataset.write(tmp_path_factory.mktemp("d") / "small"))
    return Vocabularies(data.schema, data.vocabulary)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (None, ""),
        (float("nan"), ""),
        (7, "7"),
        (np.int64(7), "7"),
        (np.str_("x"), "x"),
        (datetime.date(2024, 1, 31), "2024-01-31"),
    ],
)
def test_values_are_text_as_a_log_has_them(value, text) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    "value", [2.5, 3.0, True, np.float32(3), datetime.datetime(2024, 1, 31, 12), b"x", {"a": 1}]
)
def test_values_that_logs_may_write_in_several_ways_are_refused(value, vocabularies) -> None:
    with pytest.raises(UserError, match="must be text, whole numbers or dates, got"):
        as_text(value)
    with pytest.raises(UserError, match="must be text, whole numbers or dates, got"):
        vocabularies.split([value])


def test_a_number_is_one_value_of_a_list(vocabularies) -> None:
    assert vocabularies.split(7) == ["7"]
    assert vocabularies.split(float("nan")) == []


def test_numbers_are_standardised_and_missing_ones_are_the_mean(vocabularies) -> None:
    cells = ["12.5", 5, None, "", "nan", " NaN ", 1e1]
    column, unknown = vocabularies.encode(PRICE, cells)
    np.testing.assert_array_equal(column.values, np.float32([1, -2, 0, 0, 0, 0, 0]))
    assert (column.values.dtype, column.offsets, unknown) == (np.float32, None, 0)


@pytest.mark.parametrize("cell", ["x", "1_000", "1e39", "inf", "-nan"])
def test_what_is_no_number_is_refused(cell, vocabularies) -> None:
    with pytest.raises(UserError, match=f"'{cell}' is "):
        vocabularies.encode(PRICE, ["1", cell])


def test_number_whose_standard_form_overflows_is_refused(vocabularies) -> None:
    narrow = dataclasses.replace(PRICE, deviation=0.002)
    with pytest.raises(UserError, match="'3e37' is too far from the other numbers"):
        vocabularies.encode(narrow, ["3e37"])


def test_values_of_a_cell_count_once_and_as_many_as_training_kept(vocabularies) -> None:
    query = small_dataset.SCHEMA.request[1]
    column, unknown = vocabularies.encode(query, ["s| q|s|r", None, ["?", "!", "q"], "||"])
    assert column.offsets is not None
    assert column.values.tolist() == [3, 1, 0, 1]
    assert column.offsets.tolist() == [0, 2, 2, 4, 4]
    assert unknown == 2


def test_a_time_of_a_request_is_from_1970_to_9999(tmp_path) -> None:
    """`test_value_text.py` has the other texts that are no times."""
    events = UserEvents(open_dataset(small_dataset.write(tmp_path / "data")))
    for text, message in (("", "it is empty"), ("-5", "'-5' is before 1970, or beyond 9999 in s")):
        with pytest.raises(UserError, match=message):
            events.time(text)


def test_separator_must_not_be_empty() -> None:
    with pytest.raises(UserError, match="the separator must not be empty"):
        Vocabularies(small_dataset.SCHEMA, lambda name: ["", "a"], "")


def test_histories_keep_ids_with_spaces_that_training_saw() -> None:
    vocabularies = Vocabularies(small_dataset.SCHEMA, lambda name: ["", " a", "b"])
    assert vocabularies.events(" a| b |c |  |") == [" a", "b", "c"]
    assert vocabularies.events([" a", " b ", None, ""]) == [" a", " b "]
    assert vocabularies.events(None) == []
