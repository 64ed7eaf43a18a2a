"""A column of each new sort, from a log to scores: a model ranks with it in every way alike."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http_server import Server
from support.json_files import edit_json
from support.tiny_run import light_config

from dien_jax import Ranker, explain, fit, load_run, make_dataset, score_split
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.kinds import KINDS
from dien_jax.data.schema import COMPUTED, Column, Feature
from dien_jax.errors import UserError
from dien_jax.inference import export_run, list_for_users, score_requests
from dien_jax.preparation.writer import DatasetWriter

pytestmark = pytest.mark.long

USERS, ITEMS, EVENTS = 40, 12, 6
TOLERANCE: dict[str, float] = {"rtol": 0, "atol": 2e-6}


def times_chosen(tables: Any, history: np.ndarray, items: np.ndarray) -> Column:
    """How often the history has each item's category, a feature that is computed."""
    category = tables["tables/item/category"]
    matches = category[items][:, None] == category[history][None]
    return Column(matches.sum(1).astype(np.float32) / 3 - 1, None)


@pytest.fixture(scope="module", autouse=True)
def computed() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMPUTED, "times_chosen", times_chosen)
        yield


def log() -> Any:
    """Users choose items whose number is near the price that they paid before."""
    pandas, random = pytest.importorskip("pandas"), np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for time in range(EVENTS):
            item = int(random.integers(ITEMS))
            price = str(item + random.random()) if random.random() < 0.8 else ""
            device = "phone" if item % 2 else "desk"
            rows.append((f"u{user}", f"i{item}", time, f"c{item % 3}", price, "buy|view", device))
    names = ["user", "item", "timestamp", "category", "price", "acts", "device"]
    return pandas.DataFrame(rows, columns=names)


def with_more(dataset: Dataset, path: Path) -> Dataset:
    """Write a dataset again with a vector of each item and a computed feature of candidates."""
    vector = Feature("picture", "vector", length=3)
    chosen = Feature("times_chosen", "numeric", mean=0.0, deviation=1.0)
    ours = dataset.schema
    schema = dataclasses.replace(ours, item=(*ours.item, vector), candidate=(chosen,))
    source, split = dataset.meta["source"], dataset.meta["split"]
    tables = {"tables/item/category": dataset.items["category"].values}
    with DatasetWriter(path, schema=schema, source=source, split=split) as writer:
        for feature in schema.features:
            if feature.size is not None:
                writer.vocabulary(feature.name, dataset.vocabulary(feature.name))
        writer.items("category", *dataset.items["category"])
        random = np.random.default_rng(1)
        writer.items("picture", random.normal(size=(ours.num_items, 3)).astype(np.float32))
        writer.groups(dataset.groups())
        writer.popularity(dataset.popularity)
        places = dataset.event_timestamp, dataset.event_offsets, dataset.events
        writer.events(dataset.event_item, *places)
        for name, examples in dataset.splits.items():
            values = []
            for row, item in enumerate(examples.item):
                history = history_of(dataset, name, row)
                values.append(times_chosen(tables, history, np.array([item])).values[0])
            column = {"times_chosen": Column(np.array(values, np.float32), None)}
            writer.examples(name, examples._replace(columns=examples.columns | column))
    return open_dataset(path)


def history_of(dataset: Dataset, split: str, row: int) -> np.ndarray:
    examples = dataset.splits[split]
    start = dataset.event_offsets[examples.sequence[row]]
    return np.asarray(dataset.event_item[start : examples.history_end[row]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log's dataset, of a run on it, ``run``, and of its exported file."""
    folder = tmp_path_factory.mktemp("columns")
    options: Any = {
        "item_features": ["category"],
        "event_features": ["price:numeric", "acts:multivalued"],
        "request_features": ["device"],
    }
    dataset = with_more(make_dataset(log(), folder / "log", **options), folder / "data")
    flags = ("extractor=gru", "evolution=augru", "auxiliary-weight=0.5", "statistics")
    config = light_config("--train.epochs=1", *(f"--model.{flag}" for flag in flags))
    run = fit(config, data=dataset, run_dir=folder / "run")
    export_run(run.run_dir, folder / "model.dien")
    return folder


def requests(dataset: Dataset) -> tuple[list[dict[str, Any]], list[int]]:
    """Requests as they are sent, of the first test examples, and the rows of these."""
    table, items = log(), np.array(dataset.vocabulary("item"))
    found, rows = [], list(range(6))
    for row in rows:
        examples = dataset.splits["test"]
        user = dataset.groups()[examples.group[row]]
        events = table[table.user == user].iloc[: len(history_of(dataset, "test", row))]
        history = events_of(events, ["buy", "view"])
        target = table[table.user == user].iloc[-1]
        found.append(
            {
                "history": history,
                "candidates": [str(items[examples.item[row]]), "i3", "unknown"],
                "user": user,
                "request_features": {"device": target.device},
            }
        )
    return found, rows


def events_of(rows: Any, acts: Any) -> list[dict[str, Any]]:
    """Events as they are sent."""
    prices = [float(price) if price else None for price in rows.price]
    pairs = zip(rows["item"], prices, strict=True)
    return [{"item": item, "price": price, "acts": acts} for item, price in pairs]


def score_of(ranking: Any, item: str) -> float:
    return float(ranking.scores[ranking.ids.index(item)])


def test_evaluation_ranker_export_and_server_agree(folder: Path) -> None:
    trained = load_run(folder / "run")
    evaluated = score_split(trained, "test").scores
    asked, rows = requests(trained.dataset)
    ranker, exported = Ranker(trained), Ranker(folder / "model.dien")
    server = Server(folder / "run").warm()
    try:
        for request, row in zip(asked, rows, strict=True):
            expected = ranker.rank(**request)
            found = score_of(expected, request["candidates"][0])
            np.testing.assert_allclose(found, evaluated[row], **TOLERANCE)
            assert expected[2:] == (0, 1, 0)
            other = exported.rank(**request)
            assert other.ids == expected.ids
            np.testing.assert_allclose(other.scores, expected.scores, **TOLERANCE)
            answer = server.post("/v1/rank", request).json()
            assert answer["ids"] == expected.ids
            np.testing.assert_allclose(answer["scores"], expected.scores, **TOLERANCE)
    finally:
        server.end()


def test_each_column_counts(folder: Path) -> None:
    """No score would show that a column was lost, were it the same without."""
    asked, _ = requests(open_dataset(folder / "data"))
    ranker, (request, *_) = Ranker(folder / "run"), asked
    whole = ranker.rank(**request).scores
    last = request["history"][-1]
    for changed in (
        {"price": 40.0},
        {"price": None},
        {"acts": "buy"},
        {"acts": None},
    ):
        events = [*request["history"][:-1], last | changed]
        assert np.abs(ranker.rank(**request | {"history": events}).scores - whole).max() > 1e-5
    trained = load_run(folder / "run")
    of_item, of_candidate = (
        trained.params[f"{group}_embeddings"] for group in ("item", "candidate")
    )
    for part in (of_item["picture"], of_candidate["times_chosen"]):
        assert np.abs(np.asarray(part)).max() > 0


@pytest.mark.parametrize("model", ["run", "model.dien"])
def test_remembered_events_keep_their_features(folder: Path, model: str) -> None:
    asked, _ = requests(open_dataset(folder / "data"))
    ranker, (request, *_) = Ranker(folder / model), asked
    *before, last = request["history"]
    ranker.remember("u", before)
    ranker.observe("u", last)
    kept = request | {"history": None, "user": "u"}
    expected = ranker.rank(**request | {"user": "u"})
    np.testing.assert_allclose(ranker.rank(**kept).scores, expected.scores, **TOLERANCE)
    later = Ranker(folder / model)
    later.adopt(ranker)
    np.testing.assert_allclose(later.rank(**kept).scores, expected.scores, **TOLERANCE)


def test_tables_lists_and_explain_read_the_events_of_the_folder(folder: Path, capsys: Any) -> None:
    trained = load_run(folder / "run")
    dataset, table = trained.dataset, folder / "requests.csv"
    item = dataset.vocabulary("item")[5]
    table.write_text(f"user,item,device\nu3,{item},phone\nu5,{item},desk\n")
    scored = score_requests(folder / "run", table, folder / "scored.csv", overwrite=True)
    assert scored["unknown_values"] == 0
    lines = (folder / "scored.csv").read_text().splitlines()[1:]
    ranker, log_rows = Ranker(trained), log()
    for line, user in zip(lines, ("u3", "u5"), strict=True):
        rows = log_rows[log_rows.user == user]
        history = events_of(rows, "buy|view")
        asked: Any = {"user": user, "request_features": {"device": line.split(",")[2]}}
        expected = ranker.rank(history, [item], **asked).scores[0]
        np.testing.assert_allclose(float(line.split(",")[3]), expected, rtol=1e-5)
        listed = ranker.recommend(history, 3, **asked)
        users = folder / "users.csv"
        users.write_text(f"user,device\n{user},{asked['request_features']['device']}\n")
        list_for_users(folder / "run", users, folder / "lists.csv", n=3, overwrite=True)
        found = [row.split(",") for row in (folder / "lists.csv").read_text().splitlines()[1:]]
        assert [row[2] for row in found] == listed.ids
        np.testing.assert_allclose([float(row[3]) for row in found], listed.scores, atol=2e-5)
        flags = ["--user", user, "--item", item, "--request-features", "device", "phone"]
        capsys.readouterr()
        assert explain.main([str(folder / "run"), *flags]) == 0
        shown = ranker.rank(history, [item], user=user, request_features={"device": "phone"})
        assert f"{shown.scores[0]:.4f}" in capsys.readouterr().out


def test_wrong_features_of_events_are_refused(folder: Path) -> None:
    ranker = Ranker(folder / "run")
    asked: Any = {"candidates": ["i1"], "request_features": {"device": None}}
    for history, message in (
        ([{"price": 1}], "history: event 1 has no 'item'"),
        (["i1", {"item": "i1", "prices": 1}], "history has no feature 'prices'"),
        ([{"item": "i1", "price": "dear"}], "history 'price': 'dear' is not a number"),
        ([{"item": None}], "history: id 1 of 1 is None; expected an item"),
    ):
        with pytest.raises(UserError, match=message):
            ranker.rank(history, **asked)
    server = Server(folder / "run").warm()
    try:
        body = {"history": [{"item": "i1", "price": "dear"}], **asked}
        answer = server.post("/v1/rank", body)
        assert (answer.status_code, answer.json()["field"]) == (422, "history[0].price")
    finally:
        server.end()


FILES: list[tuple[str, Any, str]] = [
    ("items/picture/values.npy", lambda v: v[:-1], "13 vectors of 3 numbers, found 38 numbers"),
    ("items/picture/values.npy", lambda v: v * np.float32("nan"), "should be a finite number"),
    ("events/price/values.npy", lambda v: v[1:], "expected 240 entries, found 239"),
    ("events/acts/values.npy", lambda v: v + np.int32(9), "should be at least 0 and below 3"),
    ("examples/test/times_chosen/values.npy", lambda v: v[1:], "entries, found"),
]


@pytest.mark.parametrize(("name", "change", "message"), FILES)
def test_damaged_columns_are_refused_by_file(folder: Path, tmp_path: Path, name, change, message):
    copy = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    np.save(copy / name, change(np.load(copy / name)))
    with pytest.raises(UserError, match=message) as error:
        open_dataset(copy)
    assert str(copy / name) in str(error.value)


META: list[tuple[list[Any], Any, str]] = [
    (["schema", "events"], [], "schema: unknown key 'events'.*event"),
    (["schema", "event", 0, "name"], "timestamp", "an event feature cannot be named 'timestamp'"),
    (["schema", "event", 0, "name"], "device", "two features are named 'device' .request and eve"),
    (["schema", "candidate", 0, "name"], "age", "candidate feature 'age' is computed by no fun"),
    (["schema", "item", 2, "length"], 0, "length must be at least 1, below 2.31, got 0"),
    (["schema", "item", 2, "size"], 3, "a vector feature does not have size=3"),
]


@pytest.mark.parametrize(("keys", "value", "message"), META)
def test_declarations_that_make_no_sense_are_refused(folder, tmp_path, keys, value, message):
    copy = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    edit_json(copy / "meta.json", *keys, value=value)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(copy)
    assert str(copy / "meta.json") in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([1.0, 2.0], "expected a vector of 3 numbers, found 2, of which 0 are missing"),
        ("1 2", "expected a vector of 3 numbers, found 2"),
        ([1, None, 2], "found 3, of which 1 are missing"),
        ([1, "x", 2], "'x' is not a number"),
        (7, "7 is not a list of numbers"),
    ],
)
def test_cells_that_are_no_vector_are_refused(cell: Any, message: str) -> None:
    feature = Feature("picture", "vector", length=3)
    with pytest.raises(UserError, match=message):
        KINDS["vector"].encode(feature, [cell], {}, str.split)
    values, _ = KINDS["vector"].encode(feature, [None, "1 2 3", [4, 5, 6]], {}, str.split)
    assert values.values.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
