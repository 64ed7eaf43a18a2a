"""Logs in columns: what is read, what is refused, and what ends up in the folder."""

import gzip
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from support.source_samples import IMPRESSIONS, SHOWN
from support.tiny_logs import HEADER, LOG, events_of, make, refused, write

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, list[str]]:
    """The events of ``LOG``."""
    return events_of(make(write(tmp_path_factory.mktemp("plain"), LOG))[0])


def test_users_who_chose_everything_get_no_negatives_and_the_summary_says_so(tmp_path):
    lines = "".join(f"u{user},i{item},c,{item}\n" for user in range(2) for item in range(5))
    dataset, summary = make(write(tmp_path, HEADER + lines))
    assert all(examples.label.all() for examples in dataset.splits.values())
    assert any("8 negatives left out" in line for line in summary)


@pytest.mark.parametrize("allow", [False, True])
def test_repeats_that_no_negative_has_are_reported(tmp_path, allow):
    lines = [f"u{user},i{(user + n) % 7},c,{n}" for user in range(9) for n in (1, 2, 3, 1)]
    _, summary = make(write(tmp_path, HEADER + "\n".join(lines)), allow_own_negatives=allow)
    problem = "warning: 9 of 36 events repeat an item of their user, but no negative does"
    assert [line.startswith(problem) for line in summary].count(True) == (not allow)


def test_users_with_one_event_are_kept_but_have_no_example(tmp_path):
    dataset, summary = make(write(tmp_path, LOG + "eve,i1,c1,500\n"))
    assert "eve" in dataset.groups()
    assert "users with one event, so no history and no example: 1" in summary


def test_a_log_of_single_events_leaves_nothing_to_train_on(tmp_path):
    file = write(tmp_path, HEADER + "a,i,c,1\nb,i,c,2\n")
    refused(file, "no training examples: --split last-event leaves none of the 2 users' 2 rows")


@pytest.mark.parametrize("missing", ["", " NaN "])
def test_missing_numbers_are_the_mean_and_a_constant_is_not_divided_by_0(tmp_path, missing):
    header = "user,item,price,age,timestamp\n"
    lines = ["a,x,10,30,1", "a,y,30,30,2", "a,x,99,,3", f"a,z,{missing},,4", "a,w,5,,5", "a,w,5,,6"]
    dataset, _ = make(
        write(tmp_path, header + "\n".join(lines)),
        item_features=("price:numeric",),
        user_features=("age:numeric",),
    )
    price = dataset.schema.item[1]
    assert (price.mean, price.deviation) == (20.0, 10.0)
    np.testing.assert_array_equal(dataset.items["price"].values, np.float32([0, -1, 1, 0]))
    assert dataset.schema.user[1].deviation == 1.0


def test_ids_that_look_like_missing_ones_are_named(tmp_path):
    log = LOG + "nan,i1,c1,500\nnan,-1,c1,501\n"
    _, summary = make(write(tmp_path, log))
    places = [f":{log[: log.index(line)].count(chr(10)) + 1}: " for line in ("nan,i1", "nan,-1")]
    warnings = [line for line in summary if line.startswith("warning: ")]
    for warning, place, found in zip(warnings, places, ("user 'nan'", "item '-1'"), strict=True):
        assert f"log.csv{place}{found}; if the id is missing, leave" in warning


def in_two_members(text: str) -> bytes:
    half = text.index("cat,")
    return gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode())


NAMES = {"user": "who", "item": "what", "timestamp": "when"}
COLUMNS = ("who", "what", "category", "when")
SETTINGS = {
    "RecBole.inter": {"user": "user_id:token"},
    "other names.csv": NAMES,
    "no header.csv": NAMES | {"columns": COLUMNS},
}
"""Flags of those logs that need some, by name."""


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("crlf.csv", lambda text: text.replace("\n", "\r\n")),
        ("mixed.csv", lambda text: text.replace("\n", "\r\n", 5)),
        ("byte order mark.csv", lambda text: "\ufeff" + text),
        ("blank lines.csv", lambda text: text.replace("\n", "\n\n")),
        ("tabs.TSV", lambda text: text.replace(",", "\t")),
        ("no last newline.csv", lambda text: text.removesuffix("\n")),
        ("quotes.csv", lambda text: text.replace("ann,", '"ann",')),
        ("gzip.csv.gz", in_two_members),
        ("gzip by its bytes", in_two_members),
        ("RecBole.inter", lambda text: text.replace(",", "\t").replace("user", "user_id:token", 1)),
        ("other names.csv", lambda text: text.replace(HEADER, ",".join(COLUMNS) + "\n")),
        ("no header.csv", lambda text: text.removeprefix(HEADER)),
        ("c0=1/c1=x/log.csv", str),  # as partitions are named, and as the engine calls columns
    ],
)
def test_a_log_comes_in_several_shapes(tmp_path, name, change, expected):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    file = write(tmp_path, change(LOG), name)
    assert events_of(make(file, **SETTINGS.get(name, {}))[0]) == expected


def test_names_with_line_breaks_quotes_and_commas_survive(tmp_path):
    lines = LOG.replace("ann,", '"a ""b"",\nc",')
    dataset, _ = make(write(tmp_path, lines))
    assert dataset.groups()[0] == 'a "b",\nc'
    (tmp_path / "careful").mkdir()
    careful, _ = make(write(tmp_path / "careful", lines + "x\n"), max_bad_share=0.5)
    assert events_of(careful) == events_of(dataset)


def test_spaces_around_quotes_and_empty_last_cells_are_ignored_however_a_file_is_read(
    tmp_path, expected
):
    rows = re.sub(r",(i\d+),(.*)\n", r', "\1" ,\2,,\n', LOG)
    for name, line in {"fast": "zoe,i1,c1,x,,\n", "careful": "x\n"}.items():
        file = write(tmp_path, rows + line, f"{name}.csv")
        dataset, summary = make(file, out=tmp_path / name, max_bad_share=0.5)
        assert events_of(dataset) == expected
        assert any(f"{name}.csv:26: " in line for line in summary)


def test_a_path_full_of_wildcards_means_itself(tmp_path):
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    write(folder, HEADER + "zoe,i,c,1\n", "log?.csv2")
    file = write(folder, LOG, "log?.csv")
    assert "zoe" not in make(file)[0].groups()


def test_parquet_with_typed_columns_and_lists(tmp_path):
    table = pa.table(
        {
            "user": pa.array([1] * 5 + [2] * 5, pa.int64()),
            "item": pa.array([7, 8, 9, 7, 8] * 2, pa.uint16()),
            "tags": pa.array([["a", "b"], [], None, ["a", "b"], []] * 2, pa.list_(pa.string())),
            "new": pa.array([1, 0, None, 1, 0] * 2, pa.int8()),
            "timestamp": pa.array([k * 1000 for k in range(10)], pa.timestamp("ms", tz="UTC")),
        }
    )
    file = tmp_path / "log.parquet"
    pq.write_table(table, file)
    dataset, _ = make(file, item_features=("tags:multivalued", "new"))
    assert events_of(dataset)["1"] == ["7", "8", "9", "7", "8"]
    assert dataset.event_timestamp[:3].tolist() == [0, 1000, 2000]
    assert sorted(dataset.vocabulary("tags")) == ["", "a", "b"]
    assert sorted(dataset.vocabulary("new")) == ["", "0", "1"]


def test_the_summary_says_which_events_are_examples_and_what_their_negatives_are(tmp_path):
    settings = {"split": "by-user", "valid_share": 0.25, "test_share": 0.25}
    _, summary = make(write(tmp_path, LOG), **settings)
    seen = "training sees 12 events of 2 users; its examples are every event with a history"
    assert seen in summary
    assert "negatives of each positive: 1, drawn by popularity" in "".join(summary)
    _, summary = make(write(tmp_path, LOG), out=tmp_path / "latest", max_examples=2, **settings)
    assert "are the latest 2 events of each user with a history" in "".join(summary)


# Impressions


def test_the_summary_counts_examples_clicks_and_empty_histories(tmp_path):
    _, summary = IMPRESSIONS.make(tmp_path, valid_from="3", test_from="4")
    (line,) = [line for line in summary if line.startswith("train: ")]
    assert line.startswith("train: 27 examples of 3 users, 9 positive")
    assert "9 empty" in line


def test_a_column_is_found_by_its_exact_case(tmp_path):
    header, *lines = SHOWN.splitlines()
    others = [f"User,{header},ITEM", *(f"other,{line},other" for line in lines)]
    sample = IMPRESSIONS._replace(files={"log.csv": "\n".join(others)})
    dataset, _ = sample.make(tmp_path, valid_from="3", test_from="4")
    assert sorted(dataset.groups()) == ["ann", "bob", "cat"]
    assert "other" not in dataset.vocabulary("item")


# Malformed lines, wrong columns and settings


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


def test_numbers_that_are_none_are_malformed(tmp_path):
    beyond = "is beyond the range of float32"
    problems = {"abc": "is not a number", "inf": beyond, "1e39": beyond}
    log = LOG.replace(",c0,", ",1.5,").replace(",c1,", ",2.5,").replace(",c2,", ",,")
    file = write(tmp_path, log + "".join(f"x,i,{number},5\n" for number in problems))
    _, summary = make(file, item_features=("category:numeric",), max_bad_share=0.5)
    for line, (number, problem) in enumerate(problems.items(), 26):
        assert any(f":{line}: category '{number}' {problem}" in said for said in summary)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_label_that_is_not_read_and_a_single_time_are_named(tmp_path, form):
    table = pa.table(
        {"user": np.arange(16) // 4, "item": np.arange(16) % 4, "timestamp": [7] * 16}
        | {"label": np.arange(16) % 2}
    )
    file = tmp_path / f"log.{form}"
    {"csv": pacsv.write_csv, "parquet": pq.write_table}[form](table, file)
    plain = {"item_features": (), "out": tmp_path / "plain"}
    _, summary = make(file, **plain)
    warnings = [line for line in summary if line.startswith("warning: ")]
    assert warnings[0].startswith("warning: the column 'label' is not read, and every row is a")
    assert warnings[1].startswith("warning: all rows have one time")
    _, summary = make(file, item_features=("label",))
    assert "'label' is not read" not in " ".join(summary)


def test_wrong_columns_are_named_with_what_was_found(tmp_path):
    file = write(tmp_path, LOG.replace("user,", "usr,"))
    refused(file, r"no column 'user' \(--user\); its columns are usr, item")
    refused(write(tmp_path, LOG), "no column 'price'.*--item-features", item_features=("price",))
    refused(write(tmp_path, "user,user,item,category,timestamp\n"), "two columns 'user'")
    tabs = write(tmp_path, HEADER.replace(",", "\t"), "log.txt")
    refused(tabs, r"no column 'user'.*; the first line looks tab-separated: name the file .tsv")
    refused(write(tmp_path, HEADER.replace(",", ";")), "looks separated by ';': read it by pandas")
    file = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [1], "item": [1]}), file)
    refused(file, r"no column 'timestamp' \(--timestamp\); its columns are user")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (HEADER, "holds no rows"),
        (b"user\0,item,category,timestamp\n", "NUL byte; expected Parquet, or CSV with a header"),
        (b"PAR1" + bytes(100), "damaged, or not a Parquet file"),
        ('"user,item\n', "expected a CSV header"),
    ],
    ids=["header", "nul", "parquet", "quote"],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, content, match):
    """`test_any_bytes.py` has all kinds of rubbish."""
    refused(write(tmp_path, content), match)
