"""The jitted step: compiled once a shape, repeatable, and it learns."""

import dataclasses
import functools

import jax
import jaxtyping
import numpy as np
import pytest
from support.tiny_run import CONFIG, LIGHT_CONFIG, MODEL, SCHEMA, batch_of, tables

from dien_jax.config.presets import member, with_settings
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.schema import UNKNOWN
from dien_jax.steps.optimizer import learning_rate
from dien_jax.steps.state import create_state
from dien_jax.steps.train import click_loss, halved_click_loss, make_train_step, replaced_items


def test_one_compilation_a_history_length() -> None:
    step, arrays = make_train_step(LIGHT_CONFIG, SCHEMA, 10), tables()
    state = create_state(LIGHT_CONFIG, SCHEMA, 10, seed=0)
    for steps, seed in ((4, 0), (8, 1), (4, 2), (8, 3), (4, 4)):
        state, _ = step(state, arrays, batch_of(steps, seed=seed))
    assert step._cache_size() == 2
    assert state.step == 5


@functools.cache
def step_of(config: Config):
    return make_train_step(config, SCHEMA, 10)


def run(config: Config, steps: int, seed: int = 0):
    step, state = step_of(config), create_state(config, SCHEMA, 10, seed)
    losses = []
    for number in range(steps):
        state, metrics = step(state, tables(), batch_of(4, 64, number))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_run_is_a_function_of_its_seed() -> None:
    config = with_settings(LIGHT_CONFIG, {"model.dropout": 0.3})
    (first, losses), (again, same), (_, others) = (run(config, 3, seed) for seed in (0, 0, 1))
    assert losses == same != others
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


@pytest.mark.parametrize("loss", [click_loss, halved_click_loss])
def test_a_click_loss_does_not_broadcast(loss, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # only tests check types
    with pytest.raises(ValueError, match=r"equal shapes \[B\], got \[\(3, 1\), \(3,\), \(3,\)\]"):
        loss(np.zeros((3, 1)), np.ones(3), np.ones(3))


@pytest.mark.long
def test_filler_rows_change_nothing() -> None:
    batch = batch_of(4)
    filler = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:3]]), batch)
    filler.weight[16:] = 0
    filler.label[16:] = 1 - filler.label[16:]
    (first, metrics), (second, more) = (
        step_of(LIGHT_CONFIG)(create_state(LIGHT_CONFIG, SCHEMA, 10, seed=0), tables(), each)
        for each in (batch, filler)
    )
    assert metrics["weight"] == more["weight"] == 16
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], more[name], rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, second.batch_stats, first.batch_stats)


BOTH = dataclasses.replace(MODEL, auxiliary_weight=3.0)
"""Both losses show in their sum."""


@pytest.mark.long
@pytest.mark.parametrize(
    "model",
    [
        member("wide_deep", MODEL),
        dataclasses.replace(BOTH, evolution="agru", auxiliary_negatives=3, dropout=0.1),
        dataclasses.replace(BOTH, gates="authors", follow_authors=True),
    ],
)
def test_the_loss_falls(model: ModelConfig) -> None:
    _, losses = run(dataclasses.replace(CONFIG, model=model), 150)
    assert np.mean(losses[-20:]) < 0.93 * np.mean(losses[:20])


def test_schedules() -> None:
    def rates(steps, part="network", **changes):
        optim = OptimConfig(learning_rate=0.8, **changes)
        schedule = learning_rate(Config(optim=optim, train=TrainConfig(epochs=3)), 10, part)
        return [round(float(schedule(step)), 6) for step in steps]

    assert rates([0, 9, 29]) == [0.8, 0.8, 0.8]
    assert rates([0, 9, 10, 20], schedule="halving") == [0.8, 0.8, 0.4, 0.2]
    assert rates([0, 15, 30], schedule="cosine") == [0.8, 0.4, 0.0]
    assert rates([0, 15, 30], part="tower") == [0.003, 0.0015, 0.0]


@pytest.mark.long
@pytest.mark.parametrize(("share", "known_moves"), [(0.0, True), (0.5, True), (1.0, False)])
def test_unknown_users_train_the_row_that_held_out_users_share(share, known_moves) -> None:
    # BatchNorm that only scales: another takes out what all rows share, here their user.
    settings = {"model.follow_authors": True, "train.unknown_users": share}
    config = with_settings(LIGHT_CONFIG, settings)
    state = create_state(config, SCHEMA, 10, seed=0)
    before = np.asarray(state.params["user_embeddings"]["user"])
    batch = batch_of(4, 64)._replace(user=np.full(64, 3, np.int32))
    state, _ = make_train_step(config, SCHEMA, 10)(state, tables(), batch)
    moved = np.abs(np.asarray(state.params["user_embeddings"]["user"]) - before).max(1) > 0
    assert set(np.flatnonzero(moved)) == {
        row for row, moves in ((0, share > 0), (3, known_moves)) if moves
    }


def test_unknown_items_take_their_own_bits_along() -> None:
    """A replaced candidate must not have the count of the one before it taken out of its own."""
    batch = batch_of(6, size=64)._replace(own=np.full((64, 2), 7, np.int8))
    drawn = replaced_items(batch, jax.random.key(0), 0.5)
    is_unknown = np.asarray(drawn.item) == UNKNOWN
    assert 10 < is_unknown.sum() < 54
    assert (np.asarray(drawn.own)[is_unknown] == 0).all()
    assert (np.asarray(drawn.own)[~is_unknown] == 7).all()
    share = np.mean(np.asarray(drawn.history)[np.asarray(batch.history) != UNKNOWN] == UNKNOWN)
    assert 0.4 < share < 0.6
    unchanged = ~is_unknown
    assert (np.asarray(drawn.item)[unchanged] == np.asarray(batch.item)[unchanged]).all()
