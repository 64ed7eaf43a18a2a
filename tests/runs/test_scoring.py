"""Scoring a split, and the command line that does."""

import csv
import json

import numpy as np
import pytest
from support import tiny_run
from support.tiny_run import refused_by

from dien_jax import evaluate, load_run, preset
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.errors import NotFiniteError
from dien_jax.metrics.scores import auc
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import score_batches
from dien_jax.utils.files import read_json


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_scores_come_in_the_order_of_the_examples(data, batch_size):
    dataset = open_dataset(data)
    train = TrainConfig(batch_size=batch_size, buckets=(2, 4), max_history=8)
    loader = evaluation_loader(dataset, "train", train)

    def candidate_and_length(batch):
        return batch.item + batch.lengths / np.float32(16)

    scores = score_batches(candidate_and_length, loader)
    examples = dataset.splits["train"]
    lengths = examples.history_end - dataset.event_offsets[examples.sequence]
    np.testing.assert_array_equal(scores, examples.item + lengths / 16)
    assert scores.dtype == np.float32


def test_scores_that_are_not_finite_are_refused(data):
    train = TrainConfig(batch_size=4, buckets=(), max_history=8)
    loader = evaluation_loader(open_dataset(data), "test", train)
    with pytest.raises(NotFiniteError, match="score of example 1 is inf, and 4 of its batch"):
        score_batches(lambda _: np.full(4, np.inf), loader)


@pytest.mark.long
def test_a_trained_model_is_shown_by_its_preset_checkpoint_and_data(light_run):
    model = load_run(light_run)
    assert repr(model) == f"TrainedModel('wide_dien', checkpoint {model.step}, {model.dataset!r})"


def test_predictions_have_raw_ids_and_scores_that_give_the_same_auc(
    light_run, data, tmp_path, capfd
):
    file = tmp_path / "predictions.csv"
    assert evaluate.main([str(light_run), "--split", "valid", "--predictions", str(file)]) == 0
    output = capfd.readouterr().out
    assert output.count("\n") == 1
    found = json.loads(output)
    assert found == read_json(light_run / "result.json", dict)["valid"]
    with file.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["user", "item", "label", "score"]
    dataset = open_dataset(data)
    valid = dataset.splits["valid"]
    users, items = dataset.groups(), dataset.vocabulary("item")
    assert [row[0] for row in rows] == [users[group] for group in valid.group]
    assert [row[1] for row in rows] == [items[item] for item in valid.item]
    assert 'a "quoted", item' in {row[1] for row in rows}
    labels = np.array([int(row[2]) for row in rows])
    scores = np.array([float(row[3]) for row in rows]).astype(np.float32)
    assert auc(labels, scores) == found["auc"]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.long
def test_split_of_one_label_gives_null_and_a_warning(light_run, tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "tiny", test=0)
    assert evaluate.main([str(light_run), "--data", str(data)]) == 0
    output = capfd.readouterr()
    found = json.loads(output.out)
    assert (found["auc"], found["gauc"]) == (None, None)
    assert found["logloss"] > 0
    assert "warning: the test split has one label only" in output.err


def test_run_without_an_evaluated_checkpoint_is_refused_with_what_to_do(data, tmp_path, capfd):
    run = Run.create(preset="din", seed=0, dataset=open_dataset(data), config=preset("din"))
    run.save(tmp_path / "run")
    message = refused_by(evaluate.main, [tmp_path / "run"], capfd)
    assert "has no evaluated checkpoint yet" in message
    assert f"python -m dien_jax.train --resume {tmp_path / 'run'}" in message
