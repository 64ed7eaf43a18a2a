"""Malformed lines, wrong columns and settings of a log of interactions."""

import gzip
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_logs import HEADER, LOG, make, options, positives, refused, write

from dien_jax.errors import UserError

pytestmark = pytest.mark.long


def test_lines_that_are_not_utf_8_are_malformed(tmp_path):
    lines = LOG.encode().splitlines()
    lines.insert(4, b"x,\xff,c,5")
    _, summary = make(write(tmp_path, b"\n".join(lines)), max_bad_share=0.5)
    assert summary[1].endswith("log.csv:5: not UTF-8")


def test_a_quote_that_is_never_closed_costs_one_line_only(tmp_path):
    rows = "".join(f"u{k % 50},i{k % 7},c,{k}\n" for k in range(3000))
    dataset, summary = make(write(tmp_path, HEADER + 'x,"i,c,5\n' + rows))
    assert len(dataset.event_item) == 3000
    assert summary[0].startswith("1 of 3001 lines")


def test_line_ends_may_be_mixed(tmp_path):
    lines = LOG.splitlines()
    mixed = "\n".join(lines[:5]) + "\r\n" + "\n".join(lines[5:])
    assert len(make(write(tmp_path, mixed))[0].event_item) == 24


@pytest.mark.parametrize("number", ["abc", "inf", "1e39"])
def test_numbers_that_are_none_are_malformed(tmp_path, number):
    log = LOG.replace(",c0,", ",1.5,").replace(",c1,", ",2.5,").replace(",c2,", ",,")
    lines = [*log.splitlines(), f"x,i,{number},5"]
    _, summary = make(
        write(tmp_path, "\n".join(lines)), item_features=("category:numeric",), max_bad_share=0.5
    )
    assert f":26: category '{number}' is not a number" in summary[1]


def test_wrong_columns_are_named_with_what_was_found(tmp_path):
    file = write(tmp_path, LOG.replace("user,", "usr,"))
    refused(file, r"no column 'user' \(--user\); did you mean 'usr'\?; its columns are usr, item")
    refused(write(tmp_path, LOG), "no column 'price'.*--item-features", item_features=("price",))
    refused(write(tmp_path, "user,user,item,category,timestamp\n"), "two columns 'user'")


def test_wrong_columns_of_parquet_are_named(tmp_path):
    pq.write_table(pa.table({"user": [1], "item": [1]}), tmp_path / "log.parquet")
    refused(
        tmp_path / "log.parquet", r"no column 'timestamp' \(--timestamp\); its columns are user"
    )
    table = pa.table({"user": [{"a": 1}], "item": [1], "timestamp": [1]})
    pq.write_table(table, tmp_path / "log.parquet")
    refused(
        tmp_path / "log.parquet",
        "column 'user' .* must hold text, whole numbers or dates",
        item_features=(),
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (HEADER, "holds no rows"),
        (random.Random(0).randbytes(5000), "not UTF-8|NUL byte|no column"),
        (b"user\0,item,category,timestamp\n", "NUL byte; expected Parquet, or CSV with a header"),
        (HEADER.encode() + random.Random(1).randbytes(5000), "lines are malformed"),
        (b"PAR1" + bytes(100), "damaged, or not a Parquet file"),
        (gzip.compress(random.Random(2).randbytes(9000), mtime=0)[:4000], "cut off|not UTF-8|NUL"),
        ('"user,item\n', "expected a CSV header"),
    ],
    ids=["header", "rubbish", "nul", "tail", "parquet", "cut rubbish", "quote"],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, content, match):
    refused(write(tmp_path, content), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"split": "last-event", "test_share": 0.2}, "have no effect with --split last-event"),
        ({"split": "by-user", "test_share": 1.2}, "--test-share must be"),
        ({"split": "by-time", "valid_from": "3"}, "must be given together"),
        ({"valid_from": "3", "test_from": "4"}, "needs --split by-time"),
        ({"seed": 10**30}, "--seed must be at most 9223372036854775807, got 1000"),
        ({"max_bad_share": 1.5}, "--max-bad-share must be from 0 to 1"),
        ({"max_examples": 0}, "--max-examples must be at least 1, got 0"),
        ({"train_from": "2"}, "--train-from needs --split by-time, got --split last"),
        ({"separator": ""}, "--separator must not be empty"),
        ({"item_features": ("price:numerc",)}, "got 'numerc'; did you mean 'numeric'"),
        ({"item_features": ("a b",)}, "must be letters.*rename the column"),
        ({"item_features": ("c",), "user_features": ("c",)}, "--user-features c: that name is tak"),
        ({"user_features": ("item",)}, "that name is taken by the item id"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        options(tmp_path / "log.csv", **changes)


def test_borders_may_be_dates(tmp_path):
    lines = "".join(f"u{k},i{k},c,2014-02-{day:02}\n" for k in range(3) for day in range(1, 7))
    dataset, _ = make(
        write(tmp_path, HEADER + lines),
        split="by-time",
        valid_from="2014-02-05",
        test_from="2014-02-06T00:00:00+00:00",
    )
    assert {length for _, _, length in positives(dataset, "valid")} == {4}
    assert {length for _, _, length in positives(dataset, "test")} == {5}
