"""Files of an earlier version, with features of every group and kind, score as they did.

``every_kind.zip`` holds a dataset folder, a run of ``wide_dien``, its exported file, their scores,
and ``make.py``, the script that wrote them all. The requests are copied from it.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dien_jax import Ranker, load_run
from dien_jax.runs.trained import score_split

TOLERANCE = 1e-6
"""Largest difference of two probabilities: some roundings of float32 on another processor."""
LIST_TOLERANCE = 2e-5
"""The same of log odds in lists, which are up to 4 and whose slope is up to 20 times steeper."""
REQUESTS: list[dict[str, Any]] = [
    {
        "history": ["item 1", "item 5", "item 9"],
        "candidates": ["item 2", "item 13", "item 30"],
        "user": "user 3",
        "request_features": {"device": "phone", "words": "red|shoe", "hour": 7.5},
    },
    {
        "history": [],
        "candidates": ["item 0", "item 7"],
        "request_features": {"device": None, "words": None, "hour": None},
    },
    {
        "history": [f"item {n}" for n in range(20)],
        "candidates": ["no such item", "item 31"],
        "request_features": {"device": "fridge", "words": ["blue", "sky"], "hour": 23},
    },
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with zipfile.ZipFile(Path(__file__).with_name("every_kind.zip")) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def expected(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "scores.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.optimised
def test_examples_score_as_they_did(made: Path, expected: dict[str, Any]) -> None:
    scores = score_split(load_run(made / "run", made / "dataset"), "test").scores
    assert scores.max() - scores.min() > 0.5  # so that a lost feature shows
    np.testing.assert_allclose(scores, expected["test"], rtol=0, atol=TOLERANCE)


@pytest.mark.optimised
@pytest.mark.parametrize("name", ["run", "model.dien"])
def test_requests_rank_as_they_did(made: Path, expected: dict[str, Any], name: str) -> None:
    ranker = Ranker(made / name, made / "dataset" if name == "run" else None)
    for number, request in enumerate(REQUESTS):
        ranking = ranker.rank(**request)
        by_id = dict(zip(ranking.ids, ranking.scores.tolist(), strict=True))
        scores = [by_id[one] for one in request["candidates"]]
        recorded = expected[f"{name}, request {number}"]
        np.testing.assert_allclose(scores, recorded, rtol=0, atol=TOLERANCE)
        of_list: dict[str, Any] = {
            "user": request.get("user"),
            "request_features": request["request_features"],
        }
        ranking = ranker.recommend(request["history"], 5, **of_list)
        ids, odds = expected[f"{name}, list {number}"]
        assert ranking.ids == ids
        np.testing.assert_allclose(ranking.scores, odds, rtol=0, atol=LIST_TOLERANCE)
