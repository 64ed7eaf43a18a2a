"""Scores and lists for tables of requests, and the command lines that make them."""

import csv
import gzip
import json
from pathlib import Path
from unittest.mock import Mock

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit
from support import small_dataset, untrained_run
from support.small_dataset import CONTEXT, ODD, PEAR, SLASH
from support.tiny_run import refused_by
from support.untrained_run import TOLERANCE

from dien_jax import load_run, predict, recommend, score_split
from dien_jax.inference import export_run, score_requests, score_table
from dien_jax.inference.answers import kept_answers
from dien_jax.inference.ranker import Ranker
from dien_jax.inference.request_tables import writing_scores
from dien_jax.inspection.examples import Inspector
from dien_jax.runs.calibration import Calibration
from dien_jax.steps import state, training_tables

pytestmark = pytest.mark.long

HEADER = ("user", "item", "timestamp", "device", "query", "note")
ROWS = [
    ("Ann", SLASH, "7", "desk", "q|s", "a\rreturn"),
    ("Bob", PEAR, "100", "phone", "", 'a "quoted",\r\nnote'),
    ("Ann", PEAR, "8", "", "r", ""),
    ("", "new", "1970-01-01T00:00:06", "fridge", "?", ""),
    ("Cid", PEAR, "9", "desk", "q", ""),
]


def table(file: Path, rows=ROWS, header=HEADER) -> Path:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "wt", encoding="utf-8", errors="surrogatepass", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if ".tsv" in file.name.lower() else ",")
        writer.writerows([header, *rows])
    return file


def read(file: Path) -> list[list[str]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t" if ".tsv" in file.name.lower() else ","))


def expected_scores(ranker: Ranker, histories, rows=ROWS) -> list[float]:
    return [
        ranker.rank(history, [item], user, {"device": device, "query": query}).scores[0]
        for history, (user, item, _, device, query, _) in zip(histories, rows, strict=True)
    ]


def histories(times=True) -> list[list[str]]:
    of_ann, of_cid = [PEAR, SLASH, SLASH], [ODD, ""]
    if times:
        return [of_ann[:1], [], of_ann, [], of_cid[:1]]
    return [of_ann, [], of_ann, [], of_cid]


def close(found, expected) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2e-5)


@pytest.mark.parametrize(("name", "times"), [("a.csv", True), ("a.tsv.gz", False)])
def test_histories_come_from_the_data_folder(name, times, run, ranker, tmp_path, capfd) -> None:
    kept = [column for column in range(6) if times or column != 2]
    rows = [[row[column] for column in kept] for row in ROWS]
    file = table(tmp_path / name, rows, [HEADER[column] for column in kept])
    out = tmp_path / ("out" + name[1:])
    assert predict.main([str(run), "--input", str(file), "--out", str(out)]) == 0
    header, *found = read(out)
    assert header == [*(HEADER[column] for column in kept), "score"]
    assert [row[:-1] for row in found] == rows
    scores = [float(row[-1]) for row in found]
    close(scores, expected_scores(ranker, histories(times)))
    output = capfd.readouterr()
    assert json.loads(output.out) == {
        "rows": 5,
        "unknown_users": 2,
        "unknown_items": 1,
        "unknown_history": 0,
        "unknown_values": 2,
        "empty_histories": 2,
    }
    told = "before column 'timestamp'" if times else "all of each user's events"
    assert told in output.err
    assert "1 rows with an item that training did not see" in output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, out.name])


def test_a_column_of_histories_comes_first(run, ranker, tmp_path, capfd) -> None:
    """In every piece: one has 64 batches of 3 rows."""
    given, times = [[PEAR, SLASH], [], [SLASH] * 9, ["?", SLASH], [PEAR]], 40
    rows = [(*row, ";".join(history)) for row, history in zip(ROWS, given, strict=True)]
    file = table(tmp_path / "a.csv", rows * times, (*HEADER, "past"))
    out = tmp_path / "out.csv"
    flags = ["--history", "past", "--separator", ";", "--item", "item"]
    assert predict.main([str(run), "--input", str(file), "--out", str(out), *flags]) == 0
    plain = [row if row[4] != "q|s" else (*row[:4], None, row[5]) for row in ROWS]
    scores = [float(row[-1]) for row in read(out)[1:]]
    # Another separator than "|" makes one unknown value of "q|s".
    plain[0] = (*ROWS[0][:4], ["q|s"], ROWS[0][5])
    close(scores, expected_scores(ranker, given, plain) * times)
    counts = json.loads(capfd.readouterr().out)
    assert (counts["unknown_history"], counts["empty_histories"]) == (times, times)


def test_parquet_keeps_its_types(run, ranker, tmp_path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        name: list(cells) for name, cells in zip(HEADER, zip(*ROWS, strict=True), strict=True)
    }
    columns["timestamp"] = [7, 100, 8, 6, 9]
    columns["item"] = [PEAR] * 5
    columns["query"] = [["q", "s"], None, ["r"], ["?"], ["q"]]
    columns["count"] = [1, 2, 3, None, 5]
    whole = pa.table(columns)
    pq.write_table(whole, tmp_path / "a.parquet")
    out = tmp_path / "out.parquet"
    assert predict.main([str(run), "--input", str(tmp_path / "a.parquet"), "--out", str(out)]) == 0
    found = pq.read_table(out)
    assert found.drop_columns("score") == whole
    assert found.schema.field("score").type == pa.float32()
    rows = [(row[0], PEAR, *row[2:]) for row in ROWS]
    close(found["score"].to_pylist(), expected_scores(ranker, histories(), rows))


def test_all_scores_are_calibrated_keep_their_order_and_need_no_negatives(
    tmp_path, monkeypatch
) -> None:
    """In an evaluation, in a table, in a ranker and in an exported file."""
    pytest.importorskip("flatbuffers")
    make_sampler = Mock(wraps=state.make_sampler)  # of auxiliary negatives
    monkeypatch.setattr(state, "make_sampler", make_sampler)
    data = small_dataset.write(tmp_path / "data")
    model = {"evolution": "agru", "attention": "bilinear", "statistics": False}
    run = untrained_run.write(tmp_path / "run", data, buckets=(), **model)
    file, out, exported = table(tmp_path / "a.csv"), tmp_path / "out.csv", tmp_path / "model.dien"
    slope, offset, shift = 0.4, -0.7, -1.25

    def mapped(scores, shift=0.0) -> np.ndarray:
        return expit(slope * logit(np.float64(scores)) + offset + shift)

    def scored() -> tuple[np.ndarray, list[float]]:
        score_requests(run, file, out)
        return score_split(run, "train").scores, [float(row[-1]) for row in read(out)[1:]]

    def ranked(path: Path):
        return Ranker(path).rank([PEAR, SLASH], [PEAR, SLASH, ODD], "", CONTEXT)

    split, in_table, ranking = *scored(), ranked(run)
    Calibration(slope, offset, step=1, shift=shift).save(run)
    of_split, of_table = scored()
    np.testing.assert_allclose(of_split, mapped(split), **TOLERANCE)
    np.testing.assert_array_equal(np.argsort(of_split), np.argsort(split))
    np.testing.assert_allclose(of_table, mapped(in_table, shift), **TOLERANCE)
    export_run(run, exported)
    for calibrated in (ranked(run), ranked(exported)):
        assert calibrated.ids == ranking.ids
        np.testing.assert_allclose(calibrated.scores, mapped(ranking.scores, shift), **TOLERANCE)
    trained = load_run(run)
    Inspector(trained).examples("train", [0])
    make_sampler.assert_not_called()
    training_tables(trained.dataset, trained.run.config)
    make_sampler.assert_called_once()


def test_ids_that_utf8_cannot_encode_are_escaped(tmp_path) -> None:
    with writing_scores(tmp_path / "out.csv", ["item"], None) as write:
        write([["\ud800x"]], np.float32([0.5]))
    assert read(tmp_path / "out.csv") == [["item", "score"], ["\\ud800x", "0.5"]]


def refusal(run: Path, file: Path, capfd, *flags: str) -> str:
    out = file.parent / "out.csv"
    said = refused_by(predict.main, [run, "--input", file, "--out", out, *flags], capfd)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("user,item,device,query\n", "a.csv has no rows"),
        ("user,itme,device,query\nAnn,x,,\n", "device, query; did you mean 'itme'?"),
        ("user,item,query\nAnn,x,\n", "no column 'device' (a request feature of the run)"),
        ("user,item,device,query,score\n", "already has a column 'score'"),
        ("user,item,item,device,query\n", "has two columns 'item'"),
        ("user,item,device,query\nAnn,x,,\nAnn,x,\n", "a.csv:3: expected 4 columns, found 3"),
        ("user,item,device,query\nAnn,,,\n", "a.csv:2: column 'item': the item is empty"),
        (
            'user,item,timestamp,device,query\nAnn,"x\ny",7,,\nAnn,x,noon,,\n',
            "a.csv:4: column 'timestamp': a time must be a whole number or an ISO date, got 'noon'",
        ),
        (
            "user,item,history,device,query\nAnn,x,[x],,\nAnn,x,\"['x', 'y']\",,\n",
            "a.csv:3: column 'history': ['x', 'y'] is the text of a list; expected ids with '|'",
        ),
        ("user,item,history,device,query\nAnn,x,[],,\n", "column 'history': [] is the text"),
        ('user,item,device,query\nAnn,"x,,\n', "a.csv:2: unexpected end of data"),
    ],
)
def test_mistakes_in_a_table_name_file_line_and_column(
    content, expected, run, tmp_path, capfd
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    assert expected in refusal(run, file, capfd)


def test_a_score_that_is_not_finite_names_its_row(run, tmp_path, monkeypatch, capfd) -> None:
    """In the second piece, which has one batch of 3 rows."""
    monkeypatch.setattr(score_table, "BATCHES_PER_PIECE", 1)
    is_new = lambda batch: jnp.where(batch.item == 0, jnp.nan, 0.5)  # noqa: E731
    monkeypatch.setattr(score_table, "scorer", lambda *_, **options: is_new)
    rows = [("Ann", item, "7", "desk", "q", "") for item in (*[SLASH] * 4, "new")]
    said = refusal(run, table(tmp_path / "a.csv", rows), capfd)
    assert "the model's score of " in said
    assert "a.csv:6 is nan, and 1 of its batch are not finite" in said


def test_mistaken_flags_are_told(run, tmp_path, capfd) -> None:
    file = table(tmp_path / "a.csv")
    assert "no column 'past' (--history)" in refusal(run, file, capfd, "--history", "past")
    assert "--separator must not be empty" in refusal(run, file, capfd, "--separator", "")
    for name in ("out.parquet", "out.csv.zst"):
        wrong = ["--out", str(tmp_path / name)]
        expected = "is text and is written as text; expected the name of a .csv"
        assert expected in refusal(run, file, capfd, *wrong)
    assert predict.main([str(file), "--input", str(file), "--out", "x.csv"]) == 2
    assert f"{file} is a file; expected a run folder (recommend, serve" in capfd.readouterr().err


def test_several_histories_of_a_user_need_a_column(run, tmp_path, capfd) -> None:
    group = small_dataset.ints(0, 0, 0, 2)
    data = small_dataset.write(tmp_path / "data" / "small", group=group)
    (tmp_path / "table").mkdir()
    file = table(tmp_path / "table" / "a.csv")
    message = refusal(run, file, capfd, "--data", str(data))
    assert "has several histories of one user; give each row its own in a column" in message


USER_HEADER = ("user", "timestamp", "device", "query")
USER_ROWS = [("Ann", "7", "desk", "q|s"), ("Bob", "100", "phone", ""), ("", "7", "fridge", "?")]
OF_USERS = [[PEAR], [], []]


def expected_lists(ranker, n, histories=OF_USERS, **filters) -> list[list[str]]:
    rows = []
    for (user, _, *values), history in zip(USER_ROWS, histories, strict=True):
        context = dict(zip(USER_HEADER[2:], values, strict=True))
        listed = ranker.recommend(history, n, user=user, request_features=context, **filters)
        for place, (item, score) in enumerate(zip(listed.ids, listed.scores, strict=True), 1):
            rows.append([user, str(place), item.replace("\ud800", "\\ud800"), f"{score:.9g}"])
    return rows


def without_scores(rows) -> list[list[str]]:
    return [row[:-1] for row in rows]


def test_lists_have_histories_from_the_data_folder(run, ranker, tmp_path, capfd) -> None:
    """In every piece of 512 rows."""
    out, times = tmp_path / "lists.TSV.gz", 200
    users = table(tmp_path / "users.csv", USER_ROWS * times, USER_HEADER)
    assert recommend.main([str(run), "--users", str(users), "--top", "2", "--out", str(out)]) == 0
    header, *rows = read(out)
    assert header == ["user", "rank", "item", "score"]
    assert without_scores(rows) == without_scores(expected_lists(ranker, 2)) * times
    output = capfd.readouterr()
    assert json.loads(output.out) == {
        "rows": 3 * times,
        "items": len(rows),
        "unknown_users": times,
        "unknown_history": 0,
        "unknown_values": 2 * times,
        "empty_histories": 2 * times,
    }
    assert f"{2 * times} rows with an empty history" in output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists.TSV.gz", "users.csv"]


def test_an_exported_file_lists_for_a_column_of_histories_with_filters(
    exported, run, data, ranker, tmp_path, capfd
) -> None:
    histories = [[PEAR, SLASH], [], ["?"]]
    rows = [(*row, ";".join(h)) for row, h in zip(USER_ROWS, histories, strict=True)]
    users = table(tmp_path / "users.csv", rows, (*USER_HEADER, "past"))
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
    listed = expected_lists(ranker, 10, histories, exclude=[SLASH], at_most={"category": 1})
    names = [[row["user"], str(row["rank"]), row["item"]] for row in found]
    assert names == without_scores(listed)
    import pyarrow as pa

    for kind in (pa.int64(), pa.dictionary(pa.int32(), pa.string())):
        numbered = {name: ["?", None] for name in (*USER_HEADER, "past")}
        texts = pa.table(numbered).drop_columns("timestamp")
        typed = texts.set_column(0, "user", pa.array([17, None]).cast(pa.string()).cast(kind))
        pq.write_table(typed, tmp_path / "users.parquet")
        flags[1] = str(tmp_path / "users.parquet")
        assert recommend.main([str(exported), *flags, "--top", "1"]) == 0
        assert pq.read_table(out)["user"].combine_chunks().equals(typed["user"].combine_chunks())
    users = table(tmp_path / "plain.csv", USER_ROWS, USER_HEADER)
    plain = ["--users", str(users), "--out", str(tmp_path / "out.csv")]
    message = refused_by(recommend.main, [exported, *plain], capfd)
    assert "is an exported file, which has no events: give --data DATA, or" in message
    assert recommend.main([str(exported), *plain, "--data", str(data)]) == 0
    lists, expected = read(tmp_path / "out.csv")[1:], expected_lists(ranker, 10)
    assert without_scores(lists) == without_scores(expected)
    close([float(row[-1]) for row in lists], [float(row[-1]) for row in expected])


def test_what_cannot_be_listed_is_refused_and_writes_nothing(run, tmp_path, capfd) -> None:
    """Rows of users are read, and lists are written, by the functions that score a table."""
    users, out = table(tmp_path / "users.csv", USER_ROWS, USER_HEADER), tmp_path / "out.csv"
    plain = [run, "--users", users, "--out", out]
    for words, message in (
        ([*plain, "--top", "0"], "--top must be at least 1, got 0"),
        ([*plain, "--at-most", "kind", "1"], "a feature of at_most must be one of category"),
        ([*plain, "--user", "name"], "has no column 'name' (--user)"),
        ([run, "--users", users, "--out", users], "users.csv"),
    ):
        assert message in refused_by(recommend.main, words, capfd)
        assert not out.exists()


@pytest.mark.parametrize("command", [predict, recommend])
def test_a_command_that_was_stopped_resumes(command, run, tmp_path, monkeypatch, capfd) -> None:
    """In the third of five pieces; one line of the answers is cut off, as by a full disk."""
    monkeypatch.setattr(score_table, "BATCHES_PER_PIECE", 1)
    monkeypatch.setattr(score_table, "USERS_PER_PIECE", 3)
    if command is predict:
        rows = table(tmp_path / "in.csv", ROWS * 3)
        flag, owner, name = "--input", score_table, "score_batches"
    else:
        rows = table(tmp_path / "in.csv", USER_ROWS * 5, USER_HEADER)
        flag, owner, name = "--users", score_table.ItemLists, "of_requests"
    real, calls, stop = getattr(owner, name), [], 0

    def counted(*args, **options):
        calls.append(len(calls))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(owner, name, counted)
    words = [str(run), flag, str(rows)]
    complete, out, kept = (tmp_path / name for name in ("whole.csv", "out.csv", ".out.csv.answers"))
    assert command.main([*words, "--out", str(complete)]) == 0
    whole = capfd.readouterr()
    assert "resuming" not in whole.err
    for cut, change, left in ((0, False, 3), (5, False, 4), (0, True, 5)):
        calls, stop = [], 3
        assert command.main([*words, "--out", str(out)]) == 130
        assert "the same command resumes" in capfd.readouterr().err
        assert not out.exists()
        assert len(kept.read_text().splitlines()) == 3
        kept.write_bytes(kept.read_bytes()[: -cut or None])
        if change:
            rows.write_bytes(rows.read_bytes() + b"\n")
        calls, stop = [], 0
        assert command.main([*words, "--out", str(out)]) == 0
        resumed = capfd.readouterr()
        assert len(calls) == left
        assert ("resuming: " in resumed.err) == (not change)
        assert json.loads(resumed.out) == json.loads(whole.out)
        assert out.read_bytes() == complete.read_bytes()
        out.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "whole.csv"]
    kept.write_text("of another process")
    with kept_answers(out, None):  # refused before its first piece
        pass
    assert kept.exists()
