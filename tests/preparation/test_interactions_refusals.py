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


def test_rows_of_parquet_are_counted_too(tmp_path):
    table = pa.table({"user": ["a"] * 6, "item": ["i"] * 6, "timestamp": [1, 2, None, 4, 5, 6]})
    pq.write_table(table, tmp_path / "log.parquet")
    _, summary = make(tmp_path / "log.parquet", item_features=(), max_bad_share=0.5)
    assert summary[:2] == [
        "1 of 6 lines are malformed and were left out:",
        f"  {tmp_path / 'log.parquet'}:3: the timestamp is empty",
    ]


def test_only_the_first_malformed_lines_are_shown(tmp_path):
    file = write(tmp_path, LOG + "x,i,c,-1\n" * 20)
    _, summary = make(file, max_bad_share=0.9)
    assert sum(str(file) in line for line in summary) == 5
    assert "  and 15 more" in summary


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
        (b"", "the file is empty"),
        (HEADER, "holds no rows"),
        (random.Random(0).randbytes(5000), "not UTF-8|NUL byte|no column"),
        (b"user\0,item,category,timestamp\n", "NUL byte; expected Parquet, or CSV with a header"),
        (HEADER.encode() + random.Random(1).randbytes(5000), "lines are malformed"),
        (b"PAR1" + bytes(100), "damaged, or not a Parquet file"),
        (gzip.compress(LOG.encode(), mtime=0)[:-20], "stream is cut off or damaged after line"),
        (gzip.compress(random.Random(2).randbytes(9000), mtime=0)[:4000], "cut off|not UTF-8|NUL"),
        ('"user,item\n', "expected a CSV header"),
    ],
    ids=["empty", "header", "rubbish", "nul", "tail", "parquet", "cut", "cut rubbish", "quote"],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, content, match):
    refused(write(tmp_path, content), match)


def test_a_folder_is_no_log(tmp_path):
    (tmp_path / "log.csv").mkdir()
    match = "log.csv: expected a folder with CSV or Parquet files, found none"
    refused(tmp_path / "log.csv", match)


def test_an_existing_folder_is_not_touched(tmp_path):
    file = write(tmp_path, LOG)
    (tmp_path / "data").mkdir()
    refused(file, "data exists already")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    file = write(tmp_path, LOG)
    refused(file, "dataset folder .* cannot be written", out=file / "data")


def test_parents_are_made_and_removed_again_on_failure(tmp_path):
    file = write(tmp_path, HEADER)
    refused(file, "holds no rows", out=tmp_path / "deep" / "er" / "data")
    make(write(tmp_path, LOG), out=tmp_path / "deep" / "er" / "data")


@pytest.mark.parametrize("limit", ["much", "12 parrots", "-1", "0", ""])
def test_a_memory_limit_that_is_none_is_refused(tmp_path, limit):
    refused(write(tmp_path, LOG), "--memory must be a size such as 4GB", memory=limit)


def test_negatives_beyond_the_memory_are_refused(tmp_path):
    match = (
        "--memory 4GB is too little: .* with 10,000,000,000,001 examples of an event, take about"
    )
    refused(write(tmp_path, LOG), match, negatives=10**13, split="last-event")


def test_too_little_memory_is_told(tmp_path):
    rows = "".join(f"u{k % 50},i{k % 7},{'c' * 50}{k},{k}\n" for k in range(3000))
    refused(write(tmp_path, HEADER + rows), "--memory 600MB is too little", memory="600MB")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"split": "last-event", "test_share": 0.2}, "have no effect with --split last-event"),
        ({"split": "by-user", "test_share": 1.2}, "--test-share must be"),
        ({"split": "by-time", "valid_from": "3"}, "must be given together"),
        ({"valid_from": "3", "test_from": "4"}, "needs --split by-time"),
        ({"min_count": 0}, "--min-count must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"seed": 10**30}, "--seed must be at most 9223372036854775807, got 1000"),
        ({"max_bad_share": 1.5}, "--max-bad-share must be from 0 to 1"),
        ({"negatives": 0}, "--negatives must be at least 1"),
        ({"separator": ""}, "--separator must not be empty"),
        ({"max_values": 0}, "--max-values must be at least 1"),
        ({"item_features": ("price:numerc",)}, "got 'numerc'; did you mean 'numeric'"),
        ({"item_features": ("a b",)}, "must be letters.*rename the column"),
        ({"item_features": ("c",), "user_features": ("c",)}, "--user-features c: that name is tak"),
        ({"user_features": ("item",)}, "that name is taken by the item id"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        options(tmp_path / "log.csv", **changes)


@pytest.mark.parametrize(
    ("valid_from", "test_from", "match"),
    [
        ("104", "103", "--test-from must not be before"),
        ("soon", "103", "--valid-from must be a whole number or an ISO date, got 'soon'"),
    ],
)
def test_borders_that_make_no_sense_are_refused(tmp_path, valid_from, test_from, match):
    file = write(tmp_path, LOG)
    refused(file, match, split="by-time", valid_from=valid_from, test_from=test_from)


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
