"""Whatever bytes a file has, reading it ends in a result or in an error that names the file."""

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dien_jax.errors import UserError
from dien_jax.inference.request_tables import open_requests
from dien_jax.preparation.logs import SourceLog, open_workspace
from dien_jax.preparation.options import Features, LogColumn, LogForm, LogOptions
from dien_jax.preparation.pipeline.events import load_events
from dien_jax.preparation.sources.authors import read_vocabulary

pytestmark = pytest.mark.long

WANTED = {
    "user": LogColumn("user", "--user"),
    "item": LogColumn("item", "--item"),
    "timestamp": LogColumn("timestamp", "--timestamp", "time"),
    "feature price": LogColumn("price", "--item-features", "numeric"),
    "feature tags": LogColumn("tags", "--item-features", "multivalued"),
}
FORM = LogForm(WANTED)
FEATURES = Features(item=(WANTED["feature price"], WANTED["feature tags"]))
HEADER = b"user,item,price,tags,timestamp\n"
ODD = [
    b"", b'"', b'"a""b"', b"\\", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"nan", b"-inf", b"1e400",
    b"9" * 400, b"1_0", b"-1", b"0x1", b"20130201", b"2024-02-30", b"infinity", b"-99999-01-01",
    b"294247-01-10 04:00:55", b"2024-01-01T00:00:00+99:00", "\u202e\u0000\ud7ff".encode(), b"=1+1",
]  # fmt: skip
CELLS = st.one_of(st.sampled_from(ODD), st.binary(max_size=8), st.just(b"7"))
ROWS = st.lists(st.lists(CELLS, min_size=4, max_size=6).map(b",".join), max_size=5)
TEXT = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: HEADER + tail),
    ROWS.map(lambda rows: HEADER + b"\n".join([b"u,i,1,a|b,7", *rows])),
)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
few = settings(quick, max_examples=8)  # Python writes the database's queries, which takes its time


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with open_workspace(
        LogOptions(out=tmp_path_factory.mktemp("any") / "data", split="by-user")
    ) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files") / "input"


def outcome(read: Callable[[], object], name: str) -> object:
    """The result, or the text of an error, which names the file."""
    try:
        return read()
    except UserError as error:
        text = str(error)
    assert name in text
    assert not {"\0", "\x1b", "\r"} & set(text)
    return text


@quick
@given(content=TEXT, compress=st.booleans())
@example(content=HEADER + b'u,i,1,"a\nb,7\n', compress=False)
@example(content=HEADER + b"u,i,1,a,2024-01-01T00:00:00+99:00\n", compress=False)
def test_csv_logs(content, compress, workspace, file) -> None:
    file.write_bytes(gzip.compress(content) if compress else content)
    outcome(lambda: workspace.read_columns(file, FORM), file.name)


@few
@given(times=st.lists(CELLS, min_size=1, max_size=4), numbers=st.lists(CELLS, max_size=4))
@example(times=[b"2024-01-01T00:00:00+99:00", b"294247-01-10 04:00:55", b"infinity"], numbers=[])
@example(times=[b"9" * 400, b"-1e300", b"nan"], numbers=[b"1e308", b"-1e308", b"1_0"])
def test_times_and_numbers_of_logs(times, numbers, workspace, file) -> None:
    rows = [b"u,i,1.5,a," + time for time in times] + [b"u,i,%b,a,7" % n for n in numbers]
    file.write_bytes(HEADER + b"\n".join(rows))

    def events() -> object:
        source = SourceLog(workspace.read_columns(file, FORM), FEATURES, {}, [])
        options = LogOptions(out=Path("data"), split="by-user", max_bad_share=1.0)
        return load_events(workspace, source, options)

    outcome(events, file.name)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a file with some of them changed, left out or added."""

    def change(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = whole
        for place, length, new in edits:
            content = content[:place] + new + content[place + length :]
        return content

    places = st.integers(0, len(whole) - 1)
    edit = st.tuples(places, st.integers(0, 4), st.binary(max_size=4))
    cut = places.map(lambda place: whole[:place])
    return st.one_of(cut, st.lists(edit, min_size=1, max_size=3).map(change))


def parquet(columns: dict[str, pa.Array]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


LOG = parquet(
    {
        "user": pa.array(["a", "b", None]).dictionary_encode(),
        "item": pa.array([1, 2, 3]),
        "price": pa.array([0.5, None, 3]),
        "tags": pa.array([["x", "y"], None, []]),
        "timestamp": pa.array([1, 2, 3], pa.timestamp("us")),
    }
)


@quick
@given(content=damaged(LOG))
@example(content=LOG[:524] + b"\0\0\x80" + LOG[527:])  # the name of a column is not UTF-8
@example(content=LOG.replace(b"price", b"pr\x80ce"))
def test_damaged_parquet(content, workspace, file) -> None:
    file.write_bytes(content)
    outcome(lambda: workspace.read_columns(file, FORM), file.name)

    def requests() -> None:
        table = open_requests(file)
        for piece in table.pieces(2):
            for column in WANTED.values():
                if column.name in table.names:
                    table.column(piece, column.name, column.kind)

    outcome(requests, file.name)


VOCABULARY = pickle.dumps({"default_mid": 0, "pear": 1, "é": 2})


@quick
@given(content=st.one_of(damaged(VOCABULARY), st.binary(max_size=30)))
@example(content=b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f")
@example(content=b"(" * 10_000 + b".")
@example(content=b"cposix\nsystem\n(S'true'\ntR.")
def test_vocabularies_of_the_authors(content, file) -> None:
    file.write_bytes(content)
    outcome(lambda: read_vocabulary(file), file.name)
