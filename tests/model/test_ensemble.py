"""Ensembles: each network is what it would be alone, and the mean of their logits scores."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_model import CONFIG, LIGHT, MODEL, SCHEMA, batch_of, tables
from support.untrained_run import random_state

from dien_jax.config.settings import Config, OptimConfig
from dien_jax.model.ensemble import FITTED, join_networks, network_axes, split_networks
from dien_jax.model.interest import InterestModel
from dien_jax.runs.saved_arrays import named_leaves
from dien_jax.steps import embedding_rows
from dien_jax.steps.memory import step_bytes
from dien_jax.steps.score import make_predict_step, make_summary_step
from dien_jax.steps.state import TrainState, create_state
from dien_jax.steps.train import make_train_step


def changed(config: Config, optim: OptimConfig | None = None, **model: Any) -> Config:
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        optim=optim or config.optim,
    )


def logits(probability: jax.Array) -> np.ndarray:
    p = np.float64(probability)
    return np.log(p) - np.log1p(-p)


@functools.cache
def fresh(config: Config) -> TrainState:
    return create_state(config, SCHEMA, 10, seed=0)


def test_the_score_is_the_mean_logit_of_networks_taken_apart() -> None:
    config = changed(CONFIG, ensemble=2)
    state = random_state(config, SCHEMA)
    model = (state.params, state.batch_stats)
    inputs = (tables().features, batch_of(4))
    score = make_predict_step(CONFIG, SCHEMA)
    alone = [logits(score(*network, *inputs)) for network in split_networks(2, model)]
    together = make_predict_step(config, SCHEMA)(*model, *inputs)
    # Probabilities have 24 bits, so logits of up to 5 have about 1e-5 at most.
    np.testing.assert_allclose(logits(together), np.mean(alone, 0), atol=2e-5)
    assert np.abs(alone[0] - alone[1]).min() > 1e-3


def test_a_single_network_has_the_parameters_that_it_had() -> None:
    model, features = InterestModel(MODEL, SCHEMA), tables().features
    negatives = jnp.zeros((1, 3, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch_of(4, 1), features, negatives)
    state = jax.eval_shape(functools.partial(create_state, CONFIG, SCHEMA, 10, seed=0))
    expected = {name: leaf.shape for name, leaf in named_leaves(shapes["params"]).items()}
    assert {name: leaf.shape for name, leaf in named_leaves(state.params).items()} == expected


def test_networks_start_apart_and_share_what_is_fitted_first() -> None:
    alone, together = fresh(LIGHT), fresh(changed(LIGHT, ensemble=3))
    before = named_leaves((alone.params, alone.batch_stats))
    for name, leaf in named_leaves((together.params, together.batch_stats)).items():
        is_shared = any(module in name for module in FITTED)
        assert leaf.shape == (before[name].shape if is_shared else (3, *before[name].shape))
        if name.endswith("kernel"):
            assert len({np.asarray(network).tobytes() for network in leaf}) == 3
    assert together.optimizer_state[0].count.shape == ()


@pytest.mark.parametrize(
    "optim",
    [
        OptimConfig(learning_rate=0.01),
        OptimConfig(name="adamw", weight_decay=0.5, clip_norm=0.1),
        OptimConfig(embedding_update="lazy_adam"),
        OptimConfig(embedding_update="rowwise_adagrad", embedding_l2=0.1),
    ],
    ids=["adam", "decay and clipping", "lazy_adam", "rowwise_adagrad"],
)
def test_each_network_takes_the_step_that_it_takes_alone(optim, monkeypatch) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 0)
    alone, together = (changed(LIGHT, optim, ensemble=ensemble) for ensemble in (1, 2))
    state, arrays, batch = random_state(together, SCHEMA), tables(), batch_of(4)
    networks = split_networks(2, jax.device_get(state[:3]))
    step = make_train_step(alone, SCHEMA, 10)
    expected, losses = [], []
    for network in networks:
        single = TrainState(*network, jnp.zeros((), jnp.int32), state.key)
        after, metrics = step(jax.tree.map(jnp.array, single), arrays, batch)
        expected.append(jax.device_get(after[:3]))
        losses.append([float(metrics[name]) for name in ("loss", "gradient_norm", "accuracy")])
    after, metrics = make_train_step(together, SCHEMA, 10)(state, arrays, batch)
    found = [float(metrics[name]) for name in ("loss", "gradient_norm", "accuracy")]
    np.testing.assert_allclose(found, np.mean(losses, 0), rtol=1e-5)
    assert losses[0] != losses[1]
    assert metrics["weight"] == 16
    for name, leaf in named_leaves(join_networks_of_all(expected)).items():
        got = np.asarray(named_leaves(after[:3])[name])
        # Adam divides by the square root of a square: signs of tiny gradients would show.
        np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-6, err_msg=name)


def join_networks_of_all(networks: list) -> Any:
    """Running statistics have scalars, which are the networks' own."""
    params, stats, slots = zip(*networks, strict=True)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *stats)
    return join_networks(params), stacked, join_networks(slots)


def test_features_may_be_called_like_what_networks_share() -> None:
    table, names = np.zeros((2, 3, 4)), ("logistic_regression", "calibration")
    axes = network_axes({"params": {"item_embeddings": dict.fromkeys(names, table)}})
    assert set(axes["params"]["item_embeddings"].values()) == {0}


def test_networks_drop_units_of_their_own() -> None:
    config = changed(LIGHT, ensemble=2, dropout=0.5)
    state = random_state(config, SCHEMA)
    first, _ = split_networks(2, state.params)
    equal = join_networks([jax.device_get(first)] * 2)
    state = state._replace(params=jax.tree.map(jnp.array, equal))
    after, _ = make_train_step(config, SCHEMA, 10)(state, tables(), batch_of(4))
    one, other = np.asarray(after.params["mlp"]["logit"]["kernel"])
    assert (one != other).any()


def test_histograms_have_the_values_of_all_networks() -> None:
    config = changed(CONFIG, ensemble=2)
    state = random_state(config, SCHEMA)
    model = (state.params, state.batch_stats)
    inputs = (tables().features, batch_of(4))
    found = make_summary_step(config, SCHEMA)(*model, *inputs)
    summarise = make_summary_step(CONFIG, SCHEMA)
    for number, network in enumerate(split_networks(2, model)):
        for name, value in summarise(*network, *inputs).items():
            np.testing.assert_allclose(found[name][..., number], value, rtol=1e-4, atol=1e-6)


def test_memory_of_a_step_counts_the_networks() -> None:
    one, two = (step_bytes(changed(CONFIG, ensemble=n), SCHEMA, 10, 5) for n in (1, 2))
    ids = 4 * 2 * 10 * 5  # of the history and its negatives
    assert two - ids == 2 * (one - ids)
