"""Interaction logs: what is read, what is refused, and what ends up in the folder."""

import gzip
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_logs import events_of, real_data, write

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.reading import log_files as reading
from dien_jax.preparation.sources.interactions import InteractionsOptions, prepare

HEADER = "user,item,category,timestamp\n"
LOG = HEADER + "".join(
    f"{user},i{(7 * number + shift) % 11},c{(7 * number + shift) % 11 % 3},{100 + number}\n"
    for shift, user in enumerate(["ann", "bob", "cat", "dan"])
    for number in range(6)
)


def options(file: Path, **changes) -> InteractionsOptions:
    return InteractionsOptions(
        **{"file": file, "out": file.parent / "data", "item_features": ("category",), **changes}
    )


def make(file: Path, **changes):
    """The dataset of a log, and the summary."""
    chosen = options(file, **changes)
    summary = prepare(chosen)
    return open_dataset(chosen.out), summary


def positives(dataset, split: str) -> set[tuple[str, str, int]]:
    """User, item and history length of the positive examples."""
    examples, items, groups = dataset.splits[split], dataset.vocabulary("item"), dataset.groups()
    return {
        (
            groups[examples.group[row]],
            items[examples.item[row]],
            int(examples.history_end[row] - dataset.event_offsets[examples.sequence[row]]),
        )
        for row in np.flatnonzero(examples.label)
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, list[str]]:
    """The events of ``LOG``."""
    return events_of(make(write(tmp_path_factory.mktemp("plain"), LOG))[0])


def refused(file: Path, match: str, **changes) -> None:
    """Preparing fails with the message and leaves nothing behind."""
    before = {path.name for path in file.parent.iterdir()}
    with pytest.raises(UserError, match=match):
        prepare(options(file, **changes))
    assert {path.name for path in file.parent.iterdir()} == before


def test_a_log_becomes_sequences_examples_and_features(tmp_path):
    dataset, summary = make(write(tmp_path, LOG))
    assert list(events_of(dataset)) == ["ann", "bob", "cat", "dan"]
    assert events_of(dataset)["ann"] == ["i0", "i7", "i3", "i10", "i6", "i2"]
    assert dataset.event_timestamp[:6].tolist() == list(range(100, 106))
    assert ("ann", "i2", 5) in positives(dataset, "test")
    assert ("ann", "i6", 4) in positives(dataset, "valid")
    assert {p for p in positives(dataset, "train") if p[0] == "ann"} == {
        ("ann", "i7", 1),
        ("ann", "i3", 2),
        ("ann", "i10", 3),
    }
    categories = dataset.vocabulary("category")
    for row, item in enumerate(dataset.vocabulary("item")[1:], 1):
        assert categories[dataset.items["category"].values[row]] == f"c{int(item[1:]) % 3}"
    assert any("4 users" in line for line in summary)
    meta = dataset.meta
    assert meta["source"]["name"] == "interactions"
    assert list(meta["source"]["files"]) == ["log.csv"]
    assert meta["split"]["policy"] == "last-event"


def test_every_positive_has_its_negatives_behind_it_and_none_is_the_users_own(tmp_path):
    dataset, _ = make(write(tmp_path, LOG), negatives=3)
    own = events_of(dataset)
    items = dataset.vocabulary("item")
    for examples in dataset.splits.values():
        assert examples.label.tolist() == [1, 0, 0, 0] * (len(examples.label) // 4)
        assert (np.diff(examples.history_end.reshape(-1, 4)) == 0).all()
        for row in np.flatnonzero(examples.label == 0):
            assert items[examples.item[row]] not in own[dataset.groups()[examples.group[row]]]


def test_users_who_chose_everything_get_no_negatives_and_the_summary_says_so(tmp_path):
    lines = "".join(f"u{user},i{item},c,{item}\n" for user in range(2) for item in range(5))
    dataset, summary = make(write(tmp_path, HEADER + lines))
    assert all(examples.label.all() for examples in dataset.splits.values())
    assert any("8 negatives left out" in line for line in summary)


def test_vocabularies_and_popularity_count_training_events_only(tmp_path):
    lines = ["a,x,c1,1", "a,x,c1,2", "a,y,c2,3", "a,y,c2,4", "a,v,c3,5", "a,t,c4,6"]
    dataset, _ = make(write(tmp_path, HEADER + "\n".join(lines)))
    assert dataset.vocabulary("item") == ["", "x", "y"]
    assert dataset.vocabulary("category") == ["", "c1", "c2"]
    assert dataset.popularity.tolist() == [0, 2, 2]
    assert dataset.event_item.tolist() == [1, 1, 2, 2, 0, 0]
    assert dataset.splits["test"].item.tolist()[0] == 0


def test_values_rarer_than_min_count_share_the_unknown_row(tmp_path):
    dataset, _ = make(write(tmp_path, LOG), min_count=3, split="by-user")
    trained = np.bincount(dataset.event_item, minlength=len(dataset.vocabulary("item")))
    assert (dataset.popularity[1:] >= 3).all()
    assert trained[0] > 0
    assert dataset.vocabulary("user") == [""], "each user has one training example"


def test_only_training_users_have_rows_and_all_have_groups(tmp_path):
    lines = "".join(f"u{user},i{item},c,{item}\n" for user in range(20) for item in range(3))
    dataset, _ = make(
        write(tmp_path, HEADER + lines), split="by-user", valid_share=0.2, test_share=0.3
    )
    users = dataset.vocabulary("user")
    assert len(users) == 11
    assert len(dataset.groups()) == 20
    for name, examples in dataset.splits.items():
        for user, group in zip(examples.user, examples.group, strict=True):
            assert users[user] == (dataset.groups()[group] if name == "train" else "")


def test_by_time_splits_at_given_times_and_writes_them_down(tmp_path):
    dataset, _ = make(write(tmp_path, LOG), split="by-time", valid_from="103", test_from="105")
    assert {length for _, _, length in positives(dataset, "train")} == {1, 2}
    assert {length for _, _, length in positives(dataset, "valid")} == {3, 4}
    assert {length for _, _, length in positives(dataset, "test")} == {5}
    assert dataset.meta["split"]["valid_from"] == 103


def test_by_time_keeps_a_day_of_ties_on_one_side(tmp_path):
    lines = "".join(f"u{user},i{user},c,{day}\n" for user in range(5) for day in (1, 1, 2, 2, 2))
    dataset, _ = make(write(tmp_path, HEADER + lines), split="by-time", test_share=0.2)
    assert len(positives(dataset, "train")) == 5
    assert dataset.meta["split"]["test_from"] == 2


def test_tied_last_events_keep_the_logs_order_and_are_counted(tmp_path):
    lines = ["a,i1,c,1", "a,i2,c,2", "a,i3,c,9", "a,i5,c,9", "a,i4,c,9", "b,i1,c,1", "b,i2,c,2"]
    lines += ["b,i3,c,3", "b,i4,c,4", "b,i5,c,5"]
    dataset, summary = make(write(tmp_path, HEADER + "\n".join(lines)))
    ends = dataset.event_offsets[1:] - 1
    assert dataset.splits["test"].history_end[::1].tolist()[0] == ends[0]
    assert dataset.event_timestamp.tolist() == [1, 2, 9, 9, 9, 1, 2, 3, 4, 5]
    assert dataset.vocabulary("item")[dataset.event_item[2]] == "i3"
    assert any("1 users' last events tie" in line for line in summary)


def test_order_in_the_file_does_not_matter_but_for_ties(tmp_path):
    lines = LOG.splitlines()[1:]
    random.Random(0).shuffle(lines)
    first, _ = make(write(tmp_path, LOG))
    (tmp_path / "shuffled").mkdir()
    second, _ = make(write(tmp_path / "shuffled", HEADER + "\n".join(lines)))
    assert events_of(first) == {user: events_of(second)[user] for user in events_of(first)}


def test_the_same_seed_gives_the_same_folder(tmp_path):
    file = write(tmp_path, LOG)
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        prepare(options(file, out=folder, seed=seed, split="by-user", valid_share=0.3))
    contents = [
        {p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()}
        for f in folders
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_users_with_one_event_are_kept_but_have_no_example(tmp_path):
    dataset, summary = make(write(tmp_path, LOG + "eve,i1,c1,500\n"))
    assert "eve" in dataset.groups()
    assert "eve" not in dataset.vocabulary("user")
    assert not any(
        user == "eve" for split in dataset.splits for user, *_ in positives(dataset, split)
    )
    assert any("1 users have one event" in line for line in summary)


def test_a_log_of_single_events_leaves_nothing_to_train_on(tmp_path):
    file = write(tmp_path, HEADER + "a,i,c,1\nb,i,c,2\n")
    refused(file, "no training examples: --split last-event leaves none of the 2 users' 2 events")


def test_features_of_every_kind(tmp_path):
    header = "user,item,price,tags,age,timestamp\n"
    lines = ["a,x,10,red|blue|red,30,1", "a,y,30,,30,2", "a,x,99,green,,3", "a,z,nan, blue |,,4"]
    lines += ["a,w,1e6,gold,,5", "a,w,5,gold,,6"]
    dataset, _ = make(
        write(tmp_path, header + "\n".join(lines)),
        item_features=("price:numeric", "tags:multivalued"),
        user_features=("age:numeric",),
    )
    assert dataset.vocabulary("item") == ["", "x", "y", "z"]
    price = dataset.schema.item[1]
    assert (price.mean, price.deviation) == (20.0, 10.0)
    np.testing.assert_array_equal(dataset.items["price"].values, np.float32([0, -1, 1, 0]))
    tags = dataset.items["tags"]
    words = np.array(dataset.vocabulary("tags"))
    assert [
        words[tags.values[start:end]].tolist()
        for start, end in zip(tags.offsets[:-1], tags.offsets[1:], strict=True)
    ] == [[], ["red", "blue"], [], ["blue"]]
    assert "gold" not in words
    assert dataset.schema.item[2].max_values == 2
    assert dataset.schema.user[1].deviation == 1.0, "a constant is not divided by 0"


def test_multivalued_cells_are_cut_at_max_values(tmp_path):
    lines = "".join(f"a,x,1+2+3+4,{time}\n" for time in range(5))
    dataset, _ = make(
        write(tmp_path, HEADER + lines),
        item_features=("category:multivalued",),
        separator="+",
        max_values=3,
    )
    words = dataset.vocabulary("category")
    assert [words[k] for k in dataset.items["category"].values] == ["1", "2", "3"]


def test_a_feature_is_the_first_value_by_time_that_is_not_missing(tmp_path):
    lines = ["a,x,late,9", "a,x,,1", "a,x,first,2", "a,x,later,3", "a,x,q,10", "a,x,q,11"]
    dataset, _ = make(write(tmp_path, HEADER + "\n".join(lines)))
    assert dataset.vocabulary("category") == ["", "first"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace("ann,", '"ann",'),
    ],
    ids=["crlf", "byte order mark", "blank lines", "tabs", "no last newline", "quotes"],
)
def test_text_comes_in_several_shapes(tmp_path, change, expected):
    content = change(LOG)
    file = write(tmp_path, content, "log.tsv" if "\t" in content else "log.csv")
    assert events_of(make(file)[0]) == expected


@pytest.mark.parametrize("name", ["log.csv.gz", "log"])
def test_gzip_is_told_by_its_bytes_and_read_to_the_last_member(tmp_path, name, expected):
    half = LOG.index("cat,")
    content = gzip.compress(LOG[:half].encode()) + gzip.compress(LOG[half:].encode())
    assert events_of(make(write(tmp_path, content, name))[0]) == expected


def test_names_with_line_breaks_quotes_and_commas_survive(tmp_path):
    lines = LOG.replace("ann,", '"a ""b"",\nc",')
    dataset, _ = make(write(tmp_path, lines))
    assert dataset.groups()[0] == 'a "b",\nc'
    (tmp_path / "careful").mkdir()
    careful, _ = make(write(tmp_path / "careful", lines + "x\n"), max_bad_share=0.5)
    assert events_of(careful) == events_of(dataset)


def test_a_path_full_of_wildcards_means_itself(tmp_path):
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    write(folder, HEADER + "zoe,i,c,1\n", "log?.csv2")
    file = write(folder, LOG, "log?.csv")
    assert "zoe" not in make(file)[0].groups()


def test_columns_go_by_the_names_that_flags_give_with_and_without_a_header(tmp_path, expected):
    names = {"user": "who", "item": "what", "timestamp": "when"}
    file = write(tmp_path, LOG.replace(HEADER, "who,what,category,when\n"))
    assert events_of(make(file, **names)[0]) == expected
    file = write(tmp_path, LOG.removeprefix(HEADER))
    columns = ("who", "what", "category", "when")
    assert events_of(make(file, out=tmp_path / "bare", columns=columns, **names)[0]) == expected


@pytest.mark.parametrize("compress", [False, True])
def test_parquet_with_typed_columns_and_lists(tmp_path, compress):
    table = pa.table(
        {
            "user": pa.array([1] * 5 + [2] * 5, pa.int64()),
            "item": pa.array([7, 8, 9, 7, 8] * 2, pa.uint16()),
            "tags": pa.array([["a", "b"], [], None, ["a", "b"], []] * 2, pa.list_(pa.string())),
            "new": pa.array([True, False, None, True, False] * 2),
            "timestamp": pa.array([k * 1000 for k in range(10)], pa.timestamp("ms", tz="UTC")),
        }
    )
    file = tmp_path / "log.parquet"
    pq.write_table(table, file)
    if compress:
        file.write_bytes(gzip.compress(file.read_bytes()))
    dataset, _ = make(file, item_features=("tags:multivalued", "new"))
    assert events_of(dataset)["1"] == ["7", "8", "9", "7", "8"]
    assert dataset.event_timestamp[:3].tolist() == [0, 1000, 2000]
    assert sorted(dataset.vocabulary("tags")) == ["", "a", "b"]
    assert sorted(dataset.vocabulary("new")) == ["", "0", "1"]


@pytest.mark.parametrize(
    ("times", "unit", "first"),
    [
        (["1393545600", "1393545601.0"], "seconds", 1393545600),
        (["1393545600000", "1393545600001"], "milliseconds", 1393545600000),
        (["2014-02-28", "2014-02-28T00:00:01Z"], "milliseconds", 1393545600000),
        (["2014-02-28 02:00:00+02:00", "2014-02-28 00:00:00.5"], "milliseconds", 1393545600000),
        (["0", "1"], "seconds", 0),
    ],
)
def test_times_are_whole_numbers_or_iso_dates(tmp_path, times, unit, first):
    lines = "".join(f"u{k},i,c,{times[0]}\nu{k},j,c,{times[1]}\n" * 2 for k in range(3))
    dataset, summary = make(write(tmp_path, HEADER + lines))
    assert dataset.event_timestamp[0] == first
    assert any(f"({unit})" in line for line in summary)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,i,c,-5", "timestamp '-5' is negative"),
        ("x,i,c,1e15", "timestamp '1e15' lies beyond the year 9999 in seconds"),
        ("x,i,c,inf", "timestamp 'inf' lies beyond the year 9999"),
        ("x,i,c,nan", "timestamp 'nan' is not a whole number"),
        ("x,i,c,7.5", "timestamp '7.5' is not a whole number"),
        ("x,i,c,2014-02-28", "timestamp '2014-02-28' is not a whole number"),
        ("x,i,c,soon", "timestamp 'soon' is not a whole number"),
        ("x,i,c,", "the timestamp is empty"),
        (",i,c,5", "the user is empty"),
        ("x,,c,5", "the item is empty"),
        ('x,"",c,5', "the item is empty"),
        ("x,i,5", "expected 4 columns, found 3"),
        ("x,i,c,5,6", "expected 4 columns, found 5"),
        ('x,"i"j,c,5', "wrong quotes"),
        ('x,"i,c,5', "a quote is not closed"),
    ],
)
def test_a_malformed_line_is_left_out_counted_and_shown_with_its_number(
    tmp_path, line, reason, expected
):
    lines = LOG.splitlines()
    lines.insert(9, line)
    file = write(tmp_path, "\n".join(lines))
    dataset, summary = make(file, max_bad_share=0.5)
    assert events_of(dataset) == expected
    assert summary[0] == "1 of 25 lines are malformed and were left out:"
    assert summary[1].startswith(f"  {file}:10: {reason}")


def test_too_many_malformed_lines_are_an_error(tmp_path):
    file = write(tmp_path, LOG + "x,i,c,-5\n")
    refused(file, r"1 of 25 lines are malformed, more than the allowed share of 0.01 \(--max-bad-")
    make(file, max_bad_share=0.04)


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
    refused(tmp_path / "log.parquet", "'user' .* should hold plain values", item_features=())


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


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "log.csv", "log.csv cannot be read: No such file")


def test_a_folder_is_no_log(tmp_path):
    (tmp_path / "log.csv").mkdir()
    refused(tmp_path / "log.csv", "log.csv cannot be read: Is a directory")


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


@pytest.mark.parametrize("limit", ["much", "12 parrots"])
def test_a_memory_limit_that_is_none_is_refused(tmp_path, limit):
    refused(write(tmp_path, LOG), "--memory-limit must be a size such as 1GB", memory_limit=limit)


def test_too_little_memory_is_told(tmp_path):
    rows = "".join(f"u{k % 50},i{k % 7},{'c' * 50}{k},{k}\n" for k in range(3000))
    refused(write(tmp_path, HEADER + rows), "raise --memory-limit", memory_limit="1MB")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"split": "last-event", "test_share": 0.2}, "have no effect with --split last-event"),
        ({"split": "by-user", "test_share": 1.2}, "--test-share must be"),
        ({"split": "by-time", "valid_from": "3"}, "must be given together"),
        ({"valid_from": "3", "test_from": "4"}, "needs --split by-time"),
        ({"min_count": 0}, "--min-count must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
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
        ("104", "103", "--test-from must not lie before"),
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


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 4)), min_size=8
    ),
    st.sampled_from(["by-user", "last-event", "by-time"]),
)
def test_no_example_sees_a_later_event_whatever_the_log(tmp_path_factory, rows, split):
    tmp_path = tmp_path_factory.mktemp("log")
    file = write(tmp_path, HEADER + "".join(f"{u},{i},c,{t}\n" for u, i, t in rows))
    try:
        dataset, _ = make(file, split=split)
    except UserError:
        assert not (tmp_path / "data").exists()
        return
    assert len(dataset.event_item) == len(rows)
    for examples in dataset.splits.values():
        for row in np.flatnonzero(examples.label):
            end = examples.history_end[row]
            history = slice(dataset.event_offsets[examples.sequence[row]], end)
            assert examples.item[row] == dataset.event_item[end]
            assert (dataset.event_timestamp[history] <= dataset.event_timestamp[end]).all()


def test_both_ways_of_reading_agree(tmp_path, monkeypatch):
    file = write(tmp_path, LOG)
    fast, _ = make(file)
    monkeypatch.setattr(reading, "_read_csv", lambda *arguments: None)
    careful, _ = make(file, out=tmp_path / "careful")
    for path in fast.path.rglob("*.npy"):
        other = careful.path / path.relative_to(fast.path)
        np.testing.assert_array_equal(np.load(path), np.load(other))
    assert json.loads((fast.path / "meta.json").read_text()) == careful.meta


@pytest.mark.slow
@pytest.mark.parametrize("split", ["by-user", "last-event", "by-time"])
def test_grocery_prepares(tmp_path, split):
    file = real_data("interactions", "grocery.csv.gz")
    dataset, summary = make(file, out=tmp_path / "data", split=split)
    assert len(dataset.event_item) == 121_892
    assert len(dataset.groups()) == 14_681
    assert not any("malformed" in line for line in summary)
    assert all(len(examples.label) > 1000 for examples in dataset.splits.values())


@pytest.mark.slow
def test_two_million_events_prepare_within_two_gigabytes(tmp_path):
    file = real_data("interactions", "amazon10.csv.gz")
    command = [sys.executable, "-m", "dien_jax.prepare", "interactions", str(file)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--item-features", "category", "--out", str(tmp_path / "data")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(done.stdout, f"{time.monotonic() - start:.0f} s, {peak / 1e6:.2f} GB at most")
    assert peak < 2_000_000, "kilobytes"
    dataset = open_dataset(tmp_path / "data")
    assert len(dataset.event_item) == 2_741_522
    assert len(dataset.groups()) == 330_086
    assert len(dataset.vocabulary("category")) == 11
