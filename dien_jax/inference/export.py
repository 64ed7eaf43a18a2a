"""Writing a trained model as one file, and checking the file against the run"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, MultiValued
from dien_jax.errors import UserError
from dien_jax.inference.archive import read_artifact
from dien_jax.inference.exported_programs import plain_context
from dien_jax.inference.loaded_model import exported_model, ranked_model
from dien_jax.inference.onnx import onnx_scores
from dien_jax.inference.ranker import BaseRanker
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import feature_tables
from dien_jax.utils.files import atomic_path

CHECKED_ROWS = 8
CHECKED_CANDIDATES = 40
"""More than one program takes at once, where there are as many items."""
TOLERANCE = {"cpu": 1e-5}
"""Largest difference of two probabilities: a few roundings of float32."""
TOLERANCE_ELSEWHERE = 5e-3
"""Where matmuls round their operands to fewer bits."""


def check_artifact(file: Path, trained: TrainedModel) -> dict[str, Any]:
    """Compares scores of a file with those of the run it was made of, on made-up requests.

    Returns:
      How many ``checked_rows`` and ``checked_candidates``, and their ``largest_difference``.

    Raises:
      UserError: when the file cannot be read, or scores differ by more than roundings.
    """
    artifact = read_artifact(file)
    batch = made_up(trained)
    score_rows = jax.jit(artifact.programs["score_rows"].call)
    model = exported_model(artifact)
    found = np.asarray(score_rows(*model.arguments, inputs_of(batch)))
    differences = [np.abs(found - scores_of_run(trained, batch)).max()]

    own, exported = BaseRanker(ranked_model(trained)), BaseRanker(model)
    dataset, length = trained.dataset, int(batch.lengths[-1])
    items, users = dataset.vocabulary("item"), dataset.vocabulary("user")
    history = [items[row] for row in np.asarray(batch.history)[-1, :length]]
    candidates = items[-CHECKED_CANDIDATES:]
    context = {feature.name: _made_up_value(trained, feature) for feature in dataset.schema.context}
    for ranker in (own, exported):
        ranker.remember("", history[:-1])
        ranker.observe("", history[-1])
    for past, user, count in ((history, users[-1], len(candidates)), (None, "", 1)):
        requested = (past, candidates[:count], user, context)
        wanted, got = (one.rank(*requested) for one in (own, exported))
        scores = dict(zip(got.ids, got.scores, strict=True))
        differences += [
            abs(scores[name] - score) for name, score in zip(wanted.ids, wanted.scores, strict=True)
        ]
    return {
        "checked_rows": CHECKED_ROWS,
        "checked_candidates": len(candidates),
        "largest_difference": _agreed("the file's scores", max(map(float, differences))),
    }


def check_onnx(file: Path, trained: TrainedModel) -> float:
    """The largest difference of an ONNX file's scores to those of the run, on made-up requests.

    Raises:
      UserError: when scores differ by more than roundings.
    """
    batch = made_up(trained)
    found = onnx_scores(file, inputs_of(batch))
    difference = float(np.abs(found - scores_of_run(trained, batch)).max())
    return _agreed("the ONNX file's scores", difference)


def made_up(trained: TrainedModel) -> Batch:
    """Some requests: histories of every length from none to the run's longest, any ids."""
    schema, longest = trained.dataset.schema, trained.run.config.train.max_history
    rng = np.random.default_rng(0)
    lengths = np.linspace(0, longest, CHECKED_ROWS).astype(np.int32)

    def rows(size: int | None, *shape: int) -> np.ndarray:
        return rng.integers(0, size, shape).astype(np.int32)

    def values(feature: Feature) -> Any:
        if feature.kind == "numeric":
            return rng.normal(size=CHECKED_ROWS).astype(np.float32)
        if feature.kind == "categorical":
            return rows(feature.size, CHECKED_ROWS)
        assert feature.max_values is not None
        several = rows(feature.size, CHECKED_ROWS, feature.max_values)
        return MultiValued(several, rows(feature.max_values + 1, CHECKED_ROWS))

    live = np.arange(longest) < lengths[:, None]
    one = np.ones(CHECKED_ROWS, np.float32)
    return Batch(
        history=np.where(live, rows(schema.num_items, CHECKED_ROWS, longest), 0).astype(np.int32),
        lengths=lengths,
        item=rows(schema.num_items, CHECKED_ROWS),
        user=rows(schema.num_users, CHECKED_ROWS),
        label=one,
        weight=one,
        context={feature.name: values(feature) for feature in schema.context},
    )


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What ``score_rows`` reads of a batch."""
    return {
        "history": batch.history,
        "lengths": batch.lengths,
        "item": batch.item,
        "user": batch.user,
        "context": plain_context(batch.context),
    }


def scores_of_run(trained: TrainedModel, batch: Batch) -> np.ndarray:
    """Scores ``[B]`` as ``python -m dien_jax.evaluate`` has them."""
    config, dataset = trained.run.config, trained.dataset
    step = make_predict_step(config, dataset.schema)
    return np.asarray(step(trained.params, trained.batch_stats, feature_tables(dataset), batch))


def _made_up_value(trained: TrainedModel, feature: Feature) -> Any:
    if feature.kind == "numeric":
        return feature.mean
    values = trained.dataset.vocabulary(feature.name)
    return values[-1] if feature.kind == "categorical" else values[-2:]


def _agreed(what: str, difference: float) -> float:
    most = TOLERANCE.get(jax.default_backend(), TOLERANCE_ELSEWHERE)
    if not difference <= most:  # NaN is no agreement either
        raise UserError(
            f"{what} differ from the run's by {difference:.2g}, expected at most {most:.2g}; "
            f"nothing was written"
        )
    return difference


@contextmanager
def _told(flag: str, file: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``file`` in the end."""
    try:
        with atomic_path(file) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be written: {error.strerror or error}") from error
