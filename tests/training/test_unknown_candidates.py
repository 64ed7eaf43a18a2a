"""Candidates that training has not seen score like those that it has, not beyond them."""

import numpy as np
import pytest
from support.tiny_logs import write

from dien_jax import Ranker, train
from dien_jax.preparation.sources import impressions

FLAGS = (
    "--train.max-history=8",
    "--train.buckets=8",
    "--model.layers=4",
    "--model.extractor=none",
    "--model.evolution=none",
    "--model.auxiliary-weight=0",
    "--optim.learning-rate=1e-9",
)
"""The tower decides the scores."""


def run_of(tmp_path, items: int, rows: int, epochs: int):
    """A run on impressions of three categories; every item of few is seen many times."""
    random = np.random.default_rng(0)
    lines = ["user,item,category,label,timestamp"]
    for k in range(rows):
        item = int(random.integers(items))
        click = int(random.random() < (0.05, 0.1, 0.2)[item % 3])
        lines.append(f"u{k % 60},i{item},c{item % 3},{click},{1000 + k}")
    log, data, run = write(tmp_path, "\n".join(lines)), tmp_path / "data", tmp_path / "run"
    options = {"item_features": ("category",), "split": "by-time"}
    impressions.prepare(impressions.ImpressionsOptions(file=log, out=data, **options))
    line = ["--data", str(data), "--run-dir", str(run), f"--train.epochs={epochs}", *FLAGS]
    assert train.main(line) == 0
    return run


TOO_FEW = pytest.mark.xfail(
    reason="five clicks an epoch with an unknown item do not teach its level: it scores too low",
    strict=True,
)


@pytest.mark.long
@pytest.mark.parametrize(("rows", "epochs"), [pytest.param(3000, 1, marks=TOO_FEW), (6000, 8)])
def test_an_unknown_candidate_scores_within_the_known_ones(tmp_path, rows, epochs):
    run = run_of(tmp_path, 12, rows, epochs)
    ranker, candidates = Ranker(run), [*(f"i{k}" for k in range(12)), "never seen"]
    for history in ([], ["i1", "i2", "i3"]):
        ranking = ranker.rank(history, candidates, user="u1")
        scores = dict(zip(ranking.ids, ranking.scores.tolist(), strict=True))
        unknown = scores.pop("never seen")
        assert min(scores.values()) / 2 < unknown < 2 * max(scores.values())
