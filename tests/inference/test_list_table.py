"""Lists for the users of a table, and the command line that makes them."""

import csv
import functools
import gzip
import json

import pytest
from support import small_dataset
from support.tiny_run import refused_by

from dien_jax import recommend
from dien_jax.inference import list_table

pytestmark = pytest.mark.long

PEAR, SLASH, ODD = small_dataset.ITEMS[1:]
HEADER = ("user", "timestamp", "device", "query")
ROWS = [("Ann", "7", "desk", "q|s"), ("Bob", "100", "phone", ""), ("", "7", "fridge", "?")]
HISTORIES = [[PEAR], [], []]

refused = functools.partial(refused_by, recommend.main)


def table(file, rows=ROWS, header=HEADER):
    with file.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def read(file) -> list[list[str]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", errors="surrogatepass", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t" if ".tsv" in file.name else ","))


def expected(ranker, n, histories=HISTORIES, **filters) -> list[list[str]]:
    return [
        [row[0], str(place), item.replace("\ud800", "\\ud800"), f"{score:.9g}"]
        for row, history in zip(ROWS, histories, strict=True)
        for listed in [
            ranker.recommend(
                history,
                n,
                user=row[0],
                context=dict(zip(HEADER[2:], row[2:], strict=True)),
                **filters,
            )
        ]
        for place, (item, score) in enumerate(zip(listed.ids, listed.scores, strict=True), 1)
    ]


def without_scores(rows) -> list[list[str]]:
    return [row[:-1] for row in rows]


@pytest.mark.parametrize("pieces", [1, 512])
def test_histories_come_from_the_data_folder(
    pieces, run, ranker, tmp_path, monkeypatch, capfd
) -> None:
    monkeypatch.setattr(list_table, "USERS_PER_PIECE", pieces)
    out = tmp_path / "lists.tsv.gz"
    users = table(tmp_path / "users.csv")
    assert recommend.main([str(run), "--users", str(users), "--top", "2", "--out", str(out)]) == 0
    header, *rows = read(out)
    assert header == ["user", "rank", "item", "score"]
    assert without_scores(rows) == without_scores(expected(ranker, 2))
    output = capfd.readouterr()
    assert json.loads(output.out) == {
        "rows": 3,
        "items": len(rows),
        "unknown_users": 1,
        "unknown_history": 0,
        "unknown_context": 2,
        "empty_histories": 2,
    }
    assert "2 users with an empty history, who get popular items" in output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists.tsv.gz", "users.csv"]


def test_an_exported_file_lists_for_a_column_of_histories_with_filters(
    exported, run, data, ranker, tmp_path, capfd
) -> None:
    histories = [[PEAR, SLASH], [], ["?"]]
    rows = [(*row, ";".join(h)) for row, h in zip(ROWS, histories, strict=True)]
    users = table(tmp_path / "users.csv", rows, (*HEADER, "past"))
    (tmp_path / "some").write_text(f"{SLASH}\nnew\n\n")
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "lists.parquet"
    flags = ["--users", str(users), "--out", str(out), "--history", "past", "--separator", ";"]
    filters = ["--include-history", "--candidates", str(tmp_path / "some")]
    assert recommend.main([str(exported), *flags, *filters]) == 0
    counts = json.loads(capfd.readouterr().out)
    assert (counts["items"], counts["unknown_history"], counts["empty_histories"]) == (3, 1, 1)
    assert pq.read_table(out)["item"].to_pylist() == [SLASH] * 3
    filters = ["--exclude", str(tmp_path / "some"), "--at-most", "category", "1"]
    assert recommend.main([str(exported), *flags, *filters]) == 0  # replaces its own file
    found = pq.read_table(out).to_pylist()
    listed = expected(ranker, 10, histories, exclude=[SLASH], at_most={"category": 1})
    assert [[row["user"], str(row["rank"])] for row in found] == [row[:2] for row in listed]
    plain = ["--users", str(table(tmp_path / "plain.csv")), "--out", str(tmp_path / "out.csv")]
    message = refused([exported, *plain], capfd)
    assert "is an exported file, which has no events: give --data DATA, or" in message
    assert recommend.main([str(exported), *plain, "--data", str(data)]) == 0
    assert without_scores(read(tmp_path / "out.csv")[1:]) == without_scores(expected(ranker, 10))


def test_what_cannot_be_listed_is_refused_and_writes_nothing(run, tmp_path, capfd) -> None:
    users = table(tmp_path / "users.csv")
    wrong = table(tmp_path / "wrong.csv", [*ROWS[:2], ("Cid", "soon", "desk", "q")])
    empty = table(tmp_path / "empty.csv", [])
    out = tmp_path / "out.csv"
    plain = [run, "--users", users, "--out", out]
    for words, message in (
        ([*plain, "--top", "0"], "--top: expected a whole number of at least 1, got 0"),
        ([*plain, "--at-most", "category", "0"], "at_most of 'category': expected a whole number"),
        ([*plain, "--at-most", "kind", "1"], "expected a categorical feature of items, got 'kind'"),
        ([*plain, "--user", "name"], "has no column 'name' (--user)"),
        ([*plain, "--exclude", tmp_path / "none"], "none"),
        ([run, "--users", wrong, "--out", out], "wrong.csv:4: column 'timestamp': "),
        ([run, "--users", empty, "--out", out], "empty.csv has no rows"),
        ([run, "--users", users, "--out", tmp_path / "out.xls"], "expected the name of a .parquet"),
        ([run, "--users", users, "--out", users], "users.csv"),
    ):
        assert message in refused(words, capfd)
        assert not out.exists()
