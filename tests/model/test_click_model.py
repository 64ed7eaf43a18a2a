"""What the model promises about scores, padding, statistics and empty histories."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logit
from support import sharded_steps
from support.sharded_steps import ITEMS, SCHEMA
from support.untrained_run import random_variables

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.schema import Feature, MultiValued
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.model.click_model import ClickModel, mean_event
from dien_jax.model.embeddings import FeatureEmbeddings
from dien_jax.model.interest import BilinearAttention, MLPAttention
from dien_jax.steps.state import create_state

SMALL = ModelConfig(embedding_size=3, hidden_size=4, layers=(6, 4), statistics=False, dropout=0.0)


def tables() -> FeatureTables:
    return sharded_steps.tables().features


def batch_of(size=6, steps=5, seed=0) -> Batch:
    """Histories of no event, of one and of all; what follows an end may be anything."""
    batch = sharded_steps.batch_of(seed, size, steps)
    batch.lengths[:3] = (0, 1, steps)[: min(3, size)]
    return batch


def rows(batch: Batch, index) -> Batch:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], batch)


def padded(batch: Batch, steps: int, rubbish: int) -> Batch:
    extra = np.full((len(batch.item), steps), rubbish, np.int32)
    return batch._replace(history=np.concatenate([batch.history, extra], 1))


@functools.cache
def scorer(config: ModelConfig):
    model = ClickModel(config, SCHEMA)
    return jax.jit(lambda v, batch: jax.nn.sigmoid(model.apply(v, batch, tables()).logits))


OURS = [
    SMALL,
    dataclasses.replace(SMALL, evolution="aigru", activation="prelu"),
    dataclasses.replace(SMALL, evolution="agru", attention="bilinear"),
    member("wide_deep", SMALL),
    member("din", SMALL),
]


@pytest.mark.long
@pytest.mark.parametrize("config", OURS)
def test_score_does_not_depend_on_batch_mates_or_padding(config: ModelConfig) -> None:
    variables, score, batch = random_variables(config, SCHEMA), scorer(config), batch_of()
    scores = np.asarray(score(variables, batch))
    assert np.ptp(scores) > 1e-3  # rows do differ
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = score(variables, rows(batch, order))
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-6)
    for part in (slice(0, 3), slice(3, 6)):  # a smaller batch, and longer histories
        longer = score(variables, padded(rows(batch, part), 3, rubbish=7))
        np.testing.assert_allclose(longer, scores[part], atol=1e-6)


def auxiliary_score(model: ClickModel, variables: dict, batch: Batch) -> jax.Array:
    def method(model: ClickModel):
        history, _ = model._embed(batch, batch.history, tables())
        candidate, lengths = model.row_inputs(batch, tables()).candidate, jnp.asarray(batch.lengths)
        return model.network(history, lengths, candidate).auxiliary_score

    return jax.jit(lambda v: model.apply(v, method=method))(variables)


@pytest.mark.long
def test_the_logit_has_a_multiple_of_the_auxiliary_score() -> None:
    """Which is the logit that the auxiliary network gives the candidate after the last event."""
    model, variables, batch = ClickModel(SMALL, SCHEMA), random_variables(SMALL, SCHEMA), batch_of()

    def logits(weight: float) -> jax.Array:
        params = {**variables["params"], "score_weight": {"kernel": jnp.full((1, 1), weight)}}
        return scorer(SMALL)({**variables, "params": params}, batch)

    score = auxiliary_score(model, variables, batch)
    without, with_it = map(logits, (0.0, 1.5))
    assert float(score[0]) == 0  # an empty history
    assert np.ptp(score) > 1e-3
    np.testing.assert_allclose(logit(with_it) - logit(without), 1.5 * score, atol=1e-3)


@pytest.mark.long
def test_a_fresh_network_has_the_logit_of_the_auxiliary_network_or_0() -> None:
    batch = batch_of()._replace(statistics=np.ones((6, 2), np.float32))
    authors = {"follow_authors": True, "statistics": True}  # whose tower's logit starts at 0
    authors = dataclasses.replace(member("wide_deep", SMALL), **authors)
    for config in (SMALL, member("base_model", SMALL), authors):
        model = ClickModel(config, SCHEMA)
        variables = jax.jit(model.init)(jax.random.key(0), batch, tables())
        expected = jnp.zeros(len(batch.item))
        if "score_weight" in variables["params"]:
            expected = auxiliary_score(model, variables, batch)
        np.testing.assert_allclose(logit(scorer(config)(variables, batch)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "config", [dataclasses.replace(SMALL, follow_authors=True), member("augru", SMALL)]
)
def test_the_authors_and_models_without_the_loss_have_no_auxiliary_score(config) -> None:
    state = jax.eval_shape(lambda: create_state(Config(model=config), SCHEMA, 1, seed=0))
    assert "score_weight" not in state.params


@functools.cache
def train_forward(config: ModelConfig):
    model = ClickModel(config, SCHEMA)

    def loss(params, statistics, batch, negatives):
        variables = {"params": params, "batch_stats": statistics}
        given, options = (batch, tables(), negatives), {"train": True, "mutable": ["batch_stats"]}
        output, changed = model.apply(variables, *given, **options)
        real = jnp.where(jnp.asarray(batch.weight) > 0, output.logits, 0)
        return (real**2).sum() + output.auxiliary_loss, changed["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.long
def test_training_statistics_see_live_positions_of_real_rows_only() -> None:
    config = SMALL
    variables = random_variables(config, SCHEMA)
    run = functools.partial(train_forward(config), variables["params"], variables["batch_stats"])
    batch = batch_of()
    negatives = np.random.default_rng(2).integers(1, ITEMS, (6, 4, 1)).astype(np.int32)
    (loss, statistics), gradients = run(batch, negatives)
    before = jax.tree.leaves(variables["batch_stats"])
    assert all(
        np.abs(a - b).max() > 0 for a, b in zip(before, jax.tree.leaves(statistics), strict=True)
    )

    filler = rows(batch_of(seed=9), slice(0, 2))._replace(weight=np.zeros(2, np.float32))
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), padded(batch, 3, 7),
                        padded(filler, 3, 8))  # fmt: skip
    more = np.pad(negatives, ((0, 2), (0, 3), (0, 0)), constant_values=9)
    (loss_again, statistics_again), gradients_again = run(both, more)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5),
        (loss_again, statistics_again, gradients_again),
        (loss, statistics, gradients),
    )


@pytest.mark.long
def test_histories_of_length_zero_and_one_train() -> None:
    variables, batch = random_variables(SMALL, SCHEMA), batch_of(size=4, steps=1)
    negatives = np.ones((4, 0, 1), np.int32)
    (loss, _), gradients = train_forward(SMALL)(
        variables["params"], variables["batch_stats"], batch, negatives
    )
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_mean_event_of_lengths_outside_the_history_is_that_of_clipped_ones() -> None:
    history = jnp.arange(12.0).reshape(3, 4, 1)
    outside, clipped = (mean_event(history, jnp.array(x)) for x in ([9, -1, 2], [4, 0, 2]))
    np.testing.assert_array_equal(outside, clipped)


@pytest.mark.parametrize("attention", [MLPAttention((4, 3)), BilinearAttention()])
def test_attention_sums_to_one_over_live_steps_and_is_zero_without_any(attention) -> None:
    rng = np.random.default_rng(0)
    candidate = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    states = jnp.asarray(rng.normal(size=(3, 5, 6)), jnp.float32)
    lengths = jnp.array([5, 2, 0])
    params = jax.jit(attention.init)(jax.random.key(0), candidate, states, lengths)
    apply = jax.jit(attention.apply)
    weights = np.asarray(apply(params, candidate, states, lengths))
    np.testing.assert_allclose(weights.sum(1), [1, 1, 0], atol=1e-6)
    assert (weights[1, 2:] == 0).all()
    assert (weights[2] == 0).all()

    def total(states):
        return (apply(params, candidate, states, lengths) ** 2).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(states)).all()
    large = apply(params, 1e4 * candidate, 1e4 * states, lengths)
    assert np.isfinite(large).all()


def test_features_of_every_kind_are_embedded() -> None:
    features = (
        Feature("category", "categorical", 4),
        Feature("tags", "multivalued", 5, 3),
        Feature("price", "numeric", mean=0.0, deviation=1.0),
    )
    module = FeatureEmbeddings(features, 2)
    values = {
        "category": jnp.array([1, 3]),
        "tags": MultiValued(jnp.array([[1, 2, 4], [3, 3, 3]]), jnp.array([2, 0])),
        "price": jnp.array([1.5, 0.0]),
    }
    params = jax.jit(module.init)(jax.random.key(0), values)["params"]
    found = jax.jit(module.apply)({"params": params}, values)
    rows_of = params["tags"]
    expected = [
        [*params["category"][1], *((rows_of[1] + rows_of[2]) / 2), *(1.5 * params["price"][0])],
        [*params["category"][3], 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("name", ["wide_deep", "dien"])
def test_bfloat16_is_what_networks_compute_in_and_nothing_else(name: str) -> None:
    """Products take bfloat16; parameters, gradients, statistics, attention and losses do not."""
    config = member(name, SMALL)
    half = dataclasses.replace(config, compute="bfloat16")
    variables, batch = random_variables(config, SCHEMA), batch_of()
    negatives = np.random.default_rng(2).integers(1, ITEMS, (6, 4, 1)).astype(np.int32)
    arguments = (variables["params"], variables["batch_stats"], batch, negatives)
    (loss, _), gradients = train_forward(config)(*arguments)
    (half_loss, statistics), half_gradients = train_forward(half)(*arguments)
    for leaf in jax.tree.leaves((half_loss, statistics, half_gradients)):
        assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(half_loss, loss, rtol=0.05)
    whole, rounded = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (gradients, half_gradients)
    )
    deviation = np.linalg.norm(rounded - whole)
    assert 0 < deviation < 0.1 * np.linalg.norm(whole)  # 8 bits, a few roundings deep
    np.testing.assert_allclose(
        scorer(half)(variables, batch), scorer(config)(variables, batch), atol=0.02
    )
    program = train_forward(half).lower(*arguments).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    of_networks = [line for line in products if "bf16" in line]
    # Those of recurrences, of three gates each way, and of Wide&Deep's linear part are float32.
    assert len(of_networks) > len(products) / 2 if name == "wide_deep" else of_networks
