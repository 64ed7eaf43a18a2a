"""The share of the networks' logit: its choice, and that all scores of a run have it."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit
from support import tiny_run

import dien_jax
from dien_jax.config.settings import Config
from dien_jax.model.logistic_regression import fitted_alone, with_network_share
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import load_run, restore_state
from dien_jax.training import fitted
from dien_jax.training.fitted import SHARES, best_share, with_share

LABELS = (np.arange(400) % 2).astype(np.int8)


def scores_of(logits: np.ndarray) -> np.ndarray:
    return expit(logits).astype(np.float32)


def test_share_is_the_best_of_all_on_validation():
    random = np.random.default_rng(0)
    signal, noise = 2.0 * LABELS, 3 * random.normal(size=400)
    fixed = signal + random.normal(size=400)
    assert best_share(scores_of(fixed + noise), scores_of(fixed), LABELS) == 0
    assert best_share(scores_of(fixed + 4 * LABELS), scores_of(fixed), LABELS) == 1
    other = random.normal(size=400)
    learned = scores_of(other + 3 * (signal + random.normal(size=400)))
    areas = {s: dien_jax.auc(LABELS, with_share(learned, scores_of(other), s)) for s in SHARES}
    assert best_share(learned, scores_of(other), LABELS) == max(SHARES, key=areas.get)


def test_whole_share_is_kept_where_others_are_no_better_and_leaves_scores_as_they_are():
    scores = scores_of(np.linspace(-20, 20, 400))
    assert best_share(scores, scores, LABELS) == 1
    assert with_share(scores, scores[::-1], 1.0) is scores
    fixed = scores_of(np.linspace(-3, 3, 400))
    np.testing.assert_allclose(with_share(scores, fixed, 0.0), fixed, rtol=1e-6)


@pytest.fixture
def run(tmp_path, data, monkeypatch):
    """A result, its folder and its data; half of the networks' logit counts."""
    monkeypatch.setattr(fitted, "SHARES", (0.5,))
    config = dien_jax.preset("wide_deep")
    model = dataclasses.replace(config.model, embedding_size=4, layers=(8,), statistics=True)
    train = dataclasses.replace(config.train, batch_size=16, epochs=2, calibrate=False)
    folder = tmp_path / "run"
    return dien_jax.fit(Config(model, config.optim, train), data=data, run_dir=folder)


@pytest.mark.long
def test_all_scores_of_a_run_have_the_share(run):
    assert run.network_share == 0.5
    trained = load_run(run.run_dir)
    scored = dien_jax.score_split(run.run_dir).metrics()
    for name, value in run.test.items():
        assert scored[name] == pytest.approx(value, rel=1e-6), name
    best = next(r for r in tiny_run.evaluations(run.run_dir) if r["step"] == run.best_step)
    for name, value in best["valid"].items():
        assert value == pytest.approx(run.valid[name], rel=1e-5), name
    raw = trained_state(run.run_dir, trained)
    for part in ("mlp", "linear"):
        kernels = [of[part] if part == "linear" else of[part]["logit"] for of in raw]
        np.testing.assert_allclose(kernels[0]["kernel"], 0.5 * kernels[1]["kernel"])
        assert np.abs(kernels[1]["kernel"]).max() > 0


def trained_state(folder, trained):
    """Parameters as they are used, and as the checkpoint has them."""
    _, state = restore_state(folder, Run.load(folder), trained.dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dien_jax.runs.trained.with_network_share", lambda params, share: params)
        _, raw = restore_state(folder, Run.load(folder), trained.dataset)
    return state.params, raw.params


def test_parameters_without_the_networks_are_those_of_share_0():
    params = {"mlp": {"logit": {"kernel": np.ones(3, np.float32)}}, "item": np.ones(2)}
    assert not fitted_alone(params)["mlp"]["logit"]["kernel"].any()
    assert with_network_share(params, 1.0) == params
    assert fitted_alone(params)["item"] is params["item"]
