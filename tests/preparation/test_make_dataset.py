"""Datasets from tables in memory: those of the same log in a file, and one line for a mistake."""

import dataclasses
import gc
import tempfile
from pathlib import Path
from typing import Any

import jaxtyping
import pyarrow as pa
import pytest
from support.small_dataset import assert_equal
from support.tiny_logs import log_of

from dien_jax import UserError, make_dataset
from dien_jax.data.dataset import data_digest
from dien_jax.preparation.sources.impressions import ImpressionsOptions
from dien_jax.preparation.sources.interactions import InteractionsOptions

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.fast

FEATURES = {"item_features": ["kind", "tags:multivalued", "price:numeric"], "user_features": "mood"}
KINDS = {
    "interactions": FEATURES | {"negatives": 2, "split": "by-user"},
    "impressions": FEATURES | {"label": "label", "request_features": ["slot:multivalued"]},
}


class Stream:
    """What a DataFrame of Polars has: a stream of Arrow, in several batches."""

    def __init__(self, table: pa.Table) -> None:
        self._table = pa.concat_tables([table[:7], table[7:]])

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def frame() -> Any:
    """Events of three users, one a day."""
    return pd.DataFrame(
        {
            "user": [name for name in ("Ann", "Bob", "Cat") for _ in range(5)],
            "item": [1, 2, 3, 4, 5, 2, 3, 4, 5, 1, 1, 3, 5, 2, 4],
            "timestamp": pd.date_range("2024-01-01", periods=15),
        }
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_memory_equals_the_file(kind, tmp_path):
    log, options = log_of(tmp_path), KINDS[kind]
    frame = pd.read_csv(log).astype({"user": "category", "kind": "category"})
    table = frame if kind == "interactions" else Stream(pa.Table.from_pandas(frame))
    datasets = [make_dataset(data, **options) for data in (str(log), table)]
    assert_equal(*datasets)
    sources = [dict(dataset.meta["source"]) for dataset in datasets]
    assert [list(source.pop("files")) for source in sources] == [["log.csv"], ["data"]]
    assert sources[0] == sources[1]
    assert datasets[0].meta["split"] == datasets[1].meta["split"]


@pytest.mark.long
def test_the_digest_is_of_the_content_whatever_the_library(frame):
    other = frame.assign(item=frame["item"].replace({1: 2, 2: 1}))
    tables = [frame, Stream(pa.Table.from_pandas(frame)), other]
    digests = [data_digest(make_dataset(table)) for table in tables]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.long
def test_a_temporary_folder_is_there_as_long_as_the_dataset(frame, temporary):
    dataset = make_dataset(frame)
    assert list(dataset.path.parents)[1] == temporary
    assert dataset.vocabulary("user") == ["", "Ann", "Bob", "Cat"]
    del dataset
    gc.collect()
    assert list(temporary.iterdir()) == []


MISSING = "1 of 15 rows are malformed, more than the allowed share of 0.01 (max_bad_share):\n"
SEVERAL = "int (row 0), str (row 2); convert it to one type, such as astype('string')"
LARGE = (
    "Python int too large to convert to C long; convert it to one type, such as astype('string')"
)
COLUMNS = "its columns are user, item, timestamp"


FORMS = "write ISO dates, or seconds or milliseconds since 1970"
EXPECTED = "data must be a DataFrame of pandas or Polars, an Arrow table or the path of a log"
CHANGED = {
    f"data: column 'item' (item) holds {SEVERAL}":
        lambda d: d.assign(item=[1, None, "a"] + [3] * 12),
    f"data: column 'item' (item) cannot be read: {LARGE}":
        lambda d: d.assign(item=[10**30] * 15),
    "data: column 'item' (item) must hold text, whole numbers or dates, found double; "
    "convert the column to one of these, in pandas by astype('Int64'); "
    "a feature of numbers is NAME:numeric":
        lambda d: d.assign(item=[None] + [3] * 14),
    "data: column 'item' (item) must hold text, whole numbers or dates, found list<item: string>; "
    "convert the column to one of these; a feature of lists is NAME:multivalued":
        lambda d: d.assign(item=[["a"]] * 15),
    "data: column 'timestamp' (timestamp) holds date (row 1), Timestamp (row 2); convert it to one "
    "type, such as astype('string')":
        lambda d: d.assign(
            timestamp=[pd.NaT, d["timestamp"][1].date(), *d["timestamp"][2:].astype(object)]
        ),
    f"{MISSING}  data, row 14: the timestamp is empty":
        lambda d: d.assign(timestamp=[*d["timestamp"][:-1], pd.NaT]),
    f"{MISSING}  data, row 4: the user is empty":
        lambda d: d.assign(user=pd.Categorical.from_codes([0] * 4 + [-1] + [0] * 10, ["Ann"])),
    f"data: no timestamp is a whole number or an ISO date, 3/4/2024 for example; {FORMS}":
        lambda d: d.assign(timestamp="3/4/2024"),
    f"data: the timestamps look like microseconds or nanoseconds, 1700000000000000000 for example; "
    f"{FORMS}":
        lambda d: d.assign(timestamp=1_700_000_000 * 10**9),
    "data has no column 'user' (user); its columns are item, timestamp; "
    "reset_index() makes columns of its index":
        lambda d: d.set_index("user")[["item", "timestamp"]],
    "data holds no rows": lambda d: d.iloc[:0],
    "data has two columns 'item' (item)": lambda d: pd.concat([d, d["item"]], axis=1),
    f"{EXPECTED}, got list": lambda d: d["user"].tolist(),
    "data must be a log, got None": lambda d: None,
    "nowhere.csv cannot be read: No such file or directory": lambda d: "nowhere.csv",
}  # fmt: skip
"""Changes of the data, by what they are refused with."""
OPTIONS = {
    f"data has no column 'usr' (user); {COLUMNS}; did you mean 'user'?": {"user": "usr"},
    f"data has no column 'kind' (item_features); {COLUMNS}": {"item_features": "kind"},
    "'negativ' is not an option of a log without a label; did you mean 'negatives'?":
        {"negativ": 3},
    "'negatives' is not an option of a log with a label": {"label": "clicked", "negatives": 3},
    "min_count must be at least 1, got 0": {"min_count": 0},
    "min_count 999 leaves no item: the most frequent one occurs 3 times in training":
        {"min_count": 999},
    "columns is for CSV without a header; data has names of columns":
        {"columns": ["user", "item", "timestamp"]},
}  # fmt: skip
"""Options, by what they are refused with."""


@pytest.mark.parametrize(
    ("message", "change", "options"),
    [
        *((message, change, {}) for message, change in CHANGED.items()),
        *((message, lambda d: d, options) for message, options in OPTIONS.items()),
    ],
)
def test_mistakes_name_the_column_and_the_row(message, change, options, frame, temporary):
    with pytest.raises(UserError) as refused:
        make_dataset(change(frame), **options)
    assert str(refused.value) == message
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_times_of_a_split_are_text_dates_or_timestamps(frame, zone):
    texts = {"valid_from": "2024-01-08", "test_from": "2024-01-12"}
    times = {name: pd.Timestamp(text, tz="UTC").tz_convert(zone) for name, text in texts.items()}
    found, expected = (make_dataset(frame, split="by-time", **given) for given in (times, texts))
    assert found.meta["split"] == expected.meta["split"]


def test_warnings_name_options_in_place_of_flags(frame, capsys):
    make_dataset(pd.concat([frame, frame]))
    assert "high, and so are scores of items of the history. allow_own" in capsys.readouterr().err


def test_options_take_paths_as_text_and_lists(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # only tests check types
    named = {"file": Path("log.csv"), "out": Path("data"), "extend": Path("old")}
    texts = {name: str(path) for name, path in named.items()}
    for kind in (InteractionsOptions, ImpressionsOptions):
        expected = kind(**named, item_features=("kind",), columns=("user", "item"))
        given = dataclasses.replace(expected)
        # Here the types of arguments are checked, so the fields are set as a user gives them.
        vars(given).update(texts, item_features="kind", columns=["user", "item"])
        given.__post_init__()
        assert given == expected
