"""Simple models to compare with: inputs, fits, stored scores, and refusals."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from support import small_dataset, tiny_run
from support.tiny_run import light_flags

from dien_jax import auc, baselines, compare, evaluate, train
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import Examples, open_dataset
from dien_jax.data.writer import DatasetWriter
from dien_jax.experiments import baseline_inputs, baseline_models
from dien_jax.experiments.baseline_inputs import BaselineInputs, Inputs
from dien_jax.experiments.baseline_models import minimise_logistic
from dien_jax.experiments.baselines import run_baselines
from dien_jax.metrics.intervals import delong
from dien_jax.runs.scoring import measure, score_split
from dien_jax.utils import extras
from dien_jax.utils.files import read_json

pytest.importorskip("lightgbm")
NAMES = ["popularity", "attribute match", "co-occurrence", "logistic regression", "boosted trees"]
SIZES = {"train": 600, "valid": 200, "test": 200}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny", sizes=SIZES)


@pytest.fixture(scope="module")
def stored(data: Path) -> Path:
    """The folder of all baselines of the data."""
    out = data.parent / "baselines"
    assert baselines.main([str(data), "--out", str(out)]) == 0
    return out


def refusal(arguments: list, capfd) -> str:
    capfd.readouterr()
    assert baselines.main([str(argument) for argument in arguments]) == 2
    found = capfd.readouterr()
    assert "Traceback" not in found.err
    assert found.out == ""
    return found.err


def test_table_and_files_have_every_baseline(data, tmp_path, capfd):
    out = tmp_path / "new" / "out"
    assert baselines.main([str(data), "--out", str(out)]) == 0
    rows = capfd.readouterr().out.splitlines()
    assert len(rows) == 2 + len(NAMES)
    dataset = open_dataset(data)
    for name, row in zip(NAMES, rows[2:], strict=True):
        folder = out / name.replace(" ", "-")
        assert small_dataset.leftovers(folder) == [
            *("baseline.json", "result.json", "scores-test.npy", "scores-valid.npy")
        ]
        result = read_json(folder / "result.json")
        for split in ("valid", "test"):
            scores = np.load(folder / f"scores-{split}.npy")
            assert scores.dtype == np.float32
            assert result[split] == measure(dataset, split, scores)
            assert row.startswith(f"{name}  ")
            assert f"{result[split]['auc']:.4f}" in row


def test_without_a_folder_only_the_table_is_made(data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert baselines.main([str(data)]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2 + len(NAMES)
    assert list(tmp_path.iterdir()) == []


def test_result_does_not_depend_on_the_run(data, stored, tmp_path):
    run_baselines(data, tmp_path / "again")
    for name in NAMES:
        folder = name.replace(" ", "-")
        first, second = (
            np.load(place / folder / "scores-test.npy") for place in (stored, tmp_path / "again")
        )
        np.testing.assert_array_equal(first, second)


def test_models_that_read_the_history_beat_popularity(stored):
    """Users click items of the category that they chose before, with a fifth of noise."""
    area = {name: read_json(stored / name.replace(" ", "-") / "result.json")["test"]["auc"]
            for name in NAMES}  # fmt: skip
    for name in ("attribute match", "logistic regression", "boosted trees"):
        assert area[name] > area["popularity"] + 0.05, area


def plain_counts(dataset, row: int) -> dict[str, float]:
    """Inputs of a training example by plain counting over all users, its own later events out.

    A user counts once for a value, and once for each pair of values.
    """
    examples, offsets = dataset.splits["train"], dataset.event_offsets
    ends = {int(s): int(offsets[s]) for s in examples.sequence}
    targets: dict[int, list[tuple[int, int]]] = {sequence: [] for sequence in ends}
    for s, end, item, label in zip(
        examples.sequence, examples.history_end, examples.item, examples.label, strict=True
    ):
        ends[int(s)] = max(ends[int(s)], int(end))
        if label:
            targets[int(s)].append((int(end), int(item)))
    sequence, end = int(examples.sequence[row]), int(examples.history_end[row])
    values: dict[int, set[int]] = {}
    for s, last in ends.items():
        stop = min(last, end) if s == sequence else last
        values[s] = set(dataset.event_item[offsets[s] : stop].tolist())
        if s != sequence:
            values[s] |= {item for at, item in targets[s] if at == last}
    candidate = int(examples.item[row])
    history = dataset.event_item[offsets[sequence] : end].tolist()

    def users(*items: int) -> int:
        return sum(set(items) <= own for own in values.values())

    cosine = 0.0
    for age, item in enumerate(reversed(history)):
        if item != candidate:
            expected = (users(item) + 1) * (users(candidate) + 1)
            cosine += users(item, candidate) / math.sqrt(expected) / (1 + age)
    return {"item popularity": math.log1p(users(candidate)), "item recent_cosine": cosine}


def write_events(path: Path) -> Path:
    """Users who choose items, each event from the second on an example with a random negative."""
    random = np.random.default_rng(3)
    lengths = random.integers(2, 8, 25)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = random.integers(1, tiny_run.ITEMS, offsets[-1])
    sequence = np.repeat(np.arange(25), 2 * (lengths - 1))
    ends = [np.repeat(np.arange(start + 1, end), 2) for start, end in itertools.pairwise(offsets)]
    history_end = np.concatenate(ends)
    label = np.arange(len(history_end)) % 2
    drawn = random.integers(1, tiny_run.ITEMS, len(history_end))
    examples = Examples(
        sequence=sequence, history_end=history_end, user=sequence + 1, group=sequence,
        item=np.where(label == 1, events[history_end], drawn), label=label,
    )  # fmt: skip
    with DatasetWriter(
        path, schema=tiny_run.SCHEMA, source={"name": "events", "files": {}}, split={"policy": "no"}
    ) as writer:
        writer.vocabulary("item", ["", *(f"i{k}" for k in range(1, tiny_run.ITEMS))])
        writer.vocabulary("category", ["", "x", "y", "z"])
        writer.vocabulary("user", ["", *(f"u{k}" for k in range(tiny_run.USERS))])
        writer.groups([f"u{k}" for k in range(tiny_run.USERS)])
        writer.items("category", np.arange(tiny_run.ITEMS) % 4)
        writer.events(item=events, timestamp=np.arange(len(events)), offsets=offsets)
        writer.popularity(np.bincount(events, minlength=tiny_run.ITEMS))
        writer.examples("train", examples)
        writer.examples("valid", examples)
    return path


def columns(dataset, split: str, *names: str) -> np.ndarray:
    """Dense columns of a split's examples, in their order."""
    inputs = BaselineInputs(dataset)
    [(rows, found)] = inputs.stream(split)
    values = np.empty((len(rows), len(names)), np.float32)
    values[rows] = found.dense[:, [inputs.names.index(name) for name in names]]
    return values


def test_training_rows_leave_out_their_own_event_and_later_ones(tmp_path):
    """The same examples, held out, would find their own clicks in the counts."""
    dataset = open_dataset(write_events(tmp_path / "events"))
    names = "item popularity", "item recent_cosine"
    found, seen = (columns(dataset, split, *names) for split in ("train", "valid"))
    expected = [plain_counts(dataset, row) for row in range(len(found))]
    np.testing.assert_allclose(
        found,
        [[values[name] for name in names] for values in expected],
        rtol=1e-5,  # float32
        atol=1e-6,
    )
    labels = dataset.splits["train"].label
    for own, complete in zip(found.T, seen.T, strict=True):
        assert auc(labels, complete) > auc(labels, own) + 0.05


def test_columns_without_counts_are_the_same_for_training_and_held_out_rows(tmp_path):
    dataset = open_dataset(write_events(tmp_path / "events"))
    inputs = BaselineInputs(dataset)
    found, seen = (columns(dataset, split, *inputs.names) for split in ("train", "valid"))
    differ = set(np.flatnonzero((found != seen).any(0)).tolist())
    assert not differ & set(inputs.uncounted)
    assert [name for place, name in enumerate(inputs.names) if place in inputs.uncounted] == [
        "length",
        *(f"item {name}" for name in ("known", "repeats", "repeat_share", "repeat_recency")),
        *(f"category {name}" for name in ("known", "repeats", "repeat_share", "repeat_recency")),
        "match",
    ]


def test_match_is_the_share_of_recent_events_with_the_attributes(tmp_path):
    item = small_dataset.ints(2, 1, 1, 0)
    dataset = open_dataset(small_dataset.write(tmp_path / "small", item=item))
    found = columns(dataset, "train", "match", "price")
    # The second example: items 1, 2 and 2 with weights 1/3, 1/2 and 1, all of the candidate's
    # category; the first has its tags.
    shares = [[1, 0], [1, (1 / 3) / (11 / 6)], [0, 0], [0, 0]]
    np.testing.assert_allclose(found[:, 0], np.mean(shares, axis=1), rtol=1e-6)  # float32
    np.testing.assert_array_equal(found[:, 1], np.asarray(dataset.items["price"].values)[item])


def test_each_value_has_a_column_and_ids_come_last(tmp_path):
    inputs = BaselineInputs(open_dataset(small_dataset.write(tmp_path / "small")))
    assert inputs.num_attributes == 12
    [(rows, found)] = inputs.stream("train")
    used = {row: found.one_hot[[place]].indices.tolist() for place, row in enumerate(rows.tolist())}
    # category 0-1, tags 2-5, words 6, device 7-8, query 9-11, item 12-14, user 15-16
    assert used == {0: [0, 9, 10, 13, 15], 1: [1, 5, 7, 14, 15], 2: [0, 2, 3, 8, 12, 16],
                    3: [7]}  # fmt: skip


def test_values_of_a_large_vocabulary_share_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(baseline_inputs, "MAX_COLUMNS", 2)
    inputs = BaselineInputs(open_dataset(small_dataset.write(tmp_path / "small")))
    [(_, found)] = inputs.stream("train")
    assert found.one_hot.shape == (4, 2 + 2 + 1 + 2 + 2 + 2 + 2)


def test_large_split_is_sampled_and_said_to_be(data, monkeypatch, capfd):
    monkeypatch.setattr(baseline_inputs, "BATCH", 64)
    monkeypatch.setattr(baseline_inputs, "BATCHES", TrainConfig(batch_size=64, buckets=()))
    inputs = BaselineInputs(open_dataset(data))
    sample = inputs.read("train", 200)
    assert len(sample.labels) == len(sample.dense) == sample.one_hot.shape[0] == 192
    assert "baselines read 192 of 600 train examples, drawn at random" in capfd.readouterr().err
    everything = inputs.read("train", 600 + 64)
    assert sorted(everything.labels) == sorted(open_dataset(data).splits["train"].label)
    assert "drawn" not in capfd.readouterr().err


def test_logistic_regression_is_at_its_minimum():
    random = np.random.default_rng(0)
    dense = random.standard_normal((300, 3)).astype(np.float32)
    one_hot = sparse.csr_array((random.random((300, 5)) < 0.3).astype(np.float32))
    labels = (random.random(300) < 1 / (1 + np.exp(-dense[:, 0]))).astype(np.int8)
    rows = np.concatenate([np.ones((300, 1)), dense, one_hot.toarray()], axis=1)
    for c in (0.01, 1.0):
        weights = minimise_logistic(dense, one_hot, labels, c, np.zeros(9))
        error = 1 / (1 + np.exp(-rows @ weights)) - labels
        gradient = c * rows.T @ error + np.concatenate([[0], weights[1:]])
        assert np.abs(gradient).max() < 2e-4 * c * 300  # twice L-BFGS's, which has float32 logits


@pytest.mark.parametrize("sign", [1, -1])
def test_single_column_has_the_sign_of_training(sign):
    dense = np.arange(40, dtype=np.float32)[:, None] * 100
    labels = (sign * (np.arange(40) - 20) + np.arange(40) % 7 > 3).astype(np.int8)
    inputs = Inputs(dense, sparse.csr_array((40, 0)), labels)
    scores = baseline_models.fit_single(0, inputs).predict(inputs)
    assert (np.diff(scores) * sign > 0).all()
    assert abs(scores.mean() - labels.mean()) < 1e-3


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    assert train.main([*light_flags(data, folder), "--train.epochs=1"]) == 0
    return folder


@pytest.mark.parametrize("split", ["test", "valid"])
def test_run_is_compared_with_baselines(split, data, stored, run, capfd):
    chosen = [stored / "logistic-regression", stored / "popularity"]
    capfd.readouterr()
    assert compare.main([*map(str, [run, *chosen]), "--split", split]) == 0
    shown = capfd.readouterr().out
    scored = score_split(run, split)
    pairs = shown[shown.index(f"{split}, difference to run") :].splitlines()
    for folder in chosen:
        expected = delong(scored.labels, np.load(folder / f"scores-{split}.npy"), scored.scores)
        rows = [line.split() for line in pairs if line.startswith(f"{folder.name}  ")]
        [row] = [row for row in rows if row[1] == "AUC" and row[2] != "known"]
        assert row[2] == f"{expected.value:+.4f}"
        assert row[6:9] == [f"{expected.low:+.4f}", "to", f"{expected.high:+.4f}"]
        result = read_json(folder / "result.json")
        assert f"{result['valid']['auc']:.4f}" in shown
    assert "settings that differ" not in shown
    assert "mean ± deviation" not in shown


def test_baselines_are_compared_with_each_other(stored, capfd):
    folders = [str(stored / name) for name in ("logistic-regression", "boosted-trees")]
    assert compare.main(folders) == 0
    assert "test, difference to logistic-regression" in capfd.readouterr().out


def test_stored_scores_of_other_examples_are_refused(stored, tmp_path, capfd):
    other = shutil.copytree(stored / "popularity", tmp_path / "other")
    np.save(other / "scores-test.npy", np.zeros(3, np.float32))
    assert compare.main([str(stored / "co-occurrence"), str(other)]) == 2
    assert f"{other}/scores-test.npy has (3,) scores, of other data" in capfd.readouterr().err


def test_baseline_is_no_run_to_evaluate(stored, capfd):
    assert evaluate.main([str(stored / "popularity")]) == 2
    assert "is not a run folder: it has no config.json" in capfd.readouterr().err


def test_training_names_the_command(data, tmp_path, capfd):
    assert train.main([*light_flags(data, tmp_path / "run"), "--train.epochs=1"]) == 0
    last = capfd.readouterr().err.splitlines()[-1]
    assert (
        last == f"compare with simple models: python -m dien_jax.baselines {data} --out baselines"
    )


def test_mistake_is_refused_in_one_message(data, tmp_path, capfd):
    assert "nowhere" in refusal([tmp_path / "nowhere"], capfd)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert "out is not empty" in refusal([data, "--out", tmp_path / "out"], capfd)
    assert "cannot be written" in refusal([data, "--out", tmp_path / "out" / "file"], capfd)
    only = tiny_run.write_data(tmp_path / "only", train=1)
    assert "training examples of both labels" in refusal([only], capfd)
    assert "found label 1 only" in refusal([only], capfd)
    no_valid = tiny_run.write_data(tmp_path / "no", sizes={"train": 40, "test": 20})
    assert "has no valid examples" in refusal([no_valid], capfd)


def test_missing_extra_is_named(data, capfd, monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "baselines", ("no_such_module",))
    assert "pip install 'dien_jax[baselines]'" in refusal([data], capfd)


def test_split_without_examples_or_of_one_label_has_no_auc(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 60, "valid": 20}, valid=1)
    assert baselines.main([str(data), "--out", str(tmp_path / "out")]) == 0
    result = read_json(tmp_path / "out" / "boosted-trees" / "result.json")
    assert result["valid"]["auc"] is None
    assert result["test"]["examples"] == 0
    assert "none" in capfd.readouterr().out
