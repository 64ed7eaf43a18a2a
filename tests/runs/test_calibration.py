"""Calibration: what is fitted, that the order of scores stays, and the file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from support.json_files import edit_json

from dien_jax.errors import UserError
from dien_jax.metrics.scores import auc, calibration_error, logloss
from dien_jax.model.layers import click_probability
from dien_jax.runs.calibration import Calibration, fit_calibration

pytestmark = pytest.mark.long


def drawn(distort, size: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of true logits, and scores whose logits are a distortion of these."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1.5, size)
    labels = (random.random(size) < expit(true)).astype(np.int8)
    return labels, expit(distort(true)).astype(np.float32), true


def applied(calibration: Calibration, scores: np.ndarray, *, in_use: bool = False) -> np.ndarray:
    """Calibrated scores, as a program computes them."""
    scores = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    logits = jnp.asarray(np.log(scores / (1 - scores)).astype(np.float32))
    logit_map = jax.tree.map(jnp.asarray, calibration.logit_map(in_use=in_use))
    return np.asarray(click_probability(logits, logit_map))


DISTORTIONS = {
    "too sure": lambda z: 3 * z,
    "too unsure and too high": lambda z: 0.4 * z + 2,
    "true": lambda z: z,
}


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_scores_become_the_true_probabilities(kind: str) -> None:
    """Fitted on some examples and tried on others, whose true probabilities are known."""
    labels, scores, _ = drawn(DISTORTIONS[kind])
    calibration = fit_calibration(labels, scores, step=7)
    others, other_scores, true = drawn(DISTORTIONS[kind], size=20_000, seed=1)
    found = applied(calibration, other_scores)
    assert np.abs(found - expit(true)).mean() < 0.02  # 4,000 labels: some 2% off
    assert calibration_error(others, found) < 0.02
    assert auc(others, found) == pytest.approx(auc(others, other_scores), abs=1e-5)  # float32
    if kind != "true":
        assert calibration_error(others, other_scores) > 0.05
        assert logloss(others, found) < logloss(others, other_scores)
    inside = abs(other_scores - 0.5) < 0.5 - 1e-6  # `applied` has other logits for 0 and 1
    mapped = calibration.apply(other_scores)
    assert mapped.dtype == np.float32
    np.testing.assert_allclose(mapped[inside], found[inside], rtol=2e-5)


@pytest.mark.parametrize(
    "scores",
    [
        np.random.default_rng(1).random(60),  # say nothing
        np.repeat([0.999, 0.001], 30),  # say nothing, and are sure
        np.repeat([1.0, 0.0], 30),  # the same, and have no logit
        np.full(60, 0.9),
        np.where(np.arange(60) % 3 == 0, 0.9, 0.2),  # are right
    ],
)
def test_log_loss_is_at_most_that_of_the_constant(scores: np.ndarray) -> None:
    labels = (np.arange(60) % 3 == 0).astype(np.int8)
    calibration = fit_calibration(labels, scores.astype(np.float32), step=1)
    constant = logloss(labels, np.full(60, 1 / 3))
    found = logloss(labels, applied(calibration, scores.astype(np.float32)))
    # Float32. Scores that rank no better than chance keep their order, by a slope of a thousandth.
    assert found <= constant + (1e-7 if auc(labels, scores) > 0.5 else 1e-3)


def test_too_few_clicks_leave_scores_as_they_are() -> None:
    scores = np.linspace(0.1, 0.9, 10, dtype=np.float32)
    for labels in (np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), np.ones(10)):
        fitted = fit_calibration(labels, scores, step=3)
        assert (fitted.slope, fitted.offset) == (1, 0)


def test_the_line_that_changes_nothing_changes_no_bit() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 20, 1000).astype(np.float32))
    plain = np.asarray(click_probability(logits))
    logit_map = jax.tree.map(jnp.asarray, Calibration(1.0, 0.0, 1).logit_map(in_use=True))
    mapped = click_probability(logits, logit_map)
    np.testing.assert_array_equal(np.asarray(mapped), plain)


def test_scores_in_use_have_the_true_click_rate() -> None:
    """One click in 21 is real, and one non-click in ten is kept: a third of the sample clicks."""
    random = np.random.default_rng(5)
    true = random.normal(-4, 1.5, 400_000)
    labels = random.random(len(true)) < expit(true)
    kept = labels | (random.random(len(true)) < 0.1)
    rate, share = labels.mean(), labels[kept].mean()
    assert rate < 0.05 < 0.3 < share
    scores = expit(true + np.log(10)).astype(np.float32)  # of a model of the sample
    calibration = fit_calibration(labels[kept], scores[kept], step=1, click_rate=float(rate))
    assert calibration_error(labels[kept], applied(calibration, scores[kept])) < 0.01
    assert calibration_error(labels, applied(calibration, scores, in_use=True)) < 0.005
    assert calibration_error(labels, scores) > 0.1


def test_file_gives_the_calibration_back(tmp_path: Path) -> None:
    labels, scores, _ = drawn(DISTORTIONS["too sure"], size=500)
    calibration = fit_calibration(labels, scores, step=12, click_rate=0.01)
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path, 12) == calibration
    with pytest.raises(UserError, match=r"calibration\.json was fitted on .* step 12, but .* 16"):
        Calibration.load(tmp_path, 16)
    assert Calibration.load(tmp_path / "none", 1) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"slope": 0.0}, r"Expected 'float' >= 0.001 - at '\$.slope'"),
        ({"shift": 1e30}, r"Expected 'float' <= 1000.* - at '\$.shift'"),
        ({"shfit": 1}, "unknown key 'shfit'; did you mean 'shift'"),
    ],
)
def test_damaged_file_is_refused_by_name(tmp_path: Path, change: dict, expected: str) -> None:
    Calibration(1.0, 0.0, 1).save(tmp_path)
    for name, value in change.items():
        edit_json(tmp_path / "calibration.json", name, value=value)
    with pytest.raises(UserError, match=rf"calibration\.json: {expected}"):
        Calibration.load(tmp_path, 1)
