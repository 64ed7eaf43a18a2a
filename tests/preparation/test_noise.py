"""Pure noise with drawn negatives: nothing learned from it ranks its test.

Each user's items are distinct and random, and so are all times. So neither who the user is nor what
the candidate is says anything about a click, and the AUC of every rule is one half.
"""

import math

import numpy as np
import pytest
from support.tiny_logs import noise, write

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.metrics import auc
from dien_jax.preparation.sources.interactions import InteractionsOptions, prepare

pytestmark = pytest.mark.long

USERS, ITEMS, EVENTS = 400, 30, 8
ERRORS = 3  # standard errors that an AUC may be away from one half
SPLITS = {"last-event": {}, "by-time": {}, "by-user": {"valid_share": 0.1, "test_share": 0.3}}


def candidate_logits(dataset: Dataset) -> np.ndarray:
    """Logit of each item: that of a logistic regression on the candidate alone, with a prior."""
    train = dataset.splits["train"]
    counts = np.bincount(train.item, minlength=len(dataset.popularity)) + 2.0
    return np.log((np.bincount(train.item, train.label, len(counts)) + 1) / counts)


def avoided(dataset: Dataset) -> np.ndarray:
    """How often the candidate of each test example was a negative of its user in training."""
    train, test = dataset.splits["train"], dataset.splits["test"]
    size = len(dataset.popularity)
    negatives = train.label == 0
    keys = train.group[negatives].astype(np.int64) * size + train.item[negatives]
    times = np.bincount(keys, minlength=len(dataset.groups()) * size)
    return times[test.group.astype(np.int64) * size + test.item]


def in_history(dataset: Dataset) -> np.ndarray:
    test, offsets = dataset.splits["test"], dataset.event_offsets
    return np.array(
        [
            item in dataset.event_item[offsets[sequence] : end]
            for sequence, end, item in zip(test.sequence, test.history_end, test.item, strict=True)
        ]
    )


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_learned_from_noise_ranks_its_test(tmp_path, split):
    rows = (f"{u},{i},{t}\n" for u, i, t in noise(USERS, ITEMS, EVENTS, seed=1))
    file, out = write(tmp_path, "user,item,timestamp\n" + "".join(rows)), tmp_path / "data"
    prepare(InteractionsOptions(file=file, out=out, split=split, negatives=2, **SPLITS[split]))
    dataset = open_dataset(out)
    test = dataset.splits["test"]
    scores = {
        "popularity": dataset.popularity[test.item],
        "logistic regression": candidate_logits(dataset)[test.item],
        "not avoided": -avoided(dataset),
        "in the history": in_history(dataset),
    }
    positives = int(test.label.sum())
    negatives = len(test.label) - positives
    error = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    assert error < 0.04
    for rule, score in scores.items():
        assert abs(auc(test.label, score) - 0.5) < ERRORS * error, rule
