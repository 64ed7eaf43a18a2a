"""DIEN on embeddings: parameters, refusals, auxiliary losses and the relatives."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.config.settings import ModelConfig
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import FeatureTables, example_batch
from dien_jax.errors import UserError
from dien_jax.model import (
    AUGRU,
    DIEN,
    GRU,
    BinaryAuxiliaryLoss,
    ClickModel,
    MLPAttention,
    SoftmaxAuxiliaryLoss,
    make_network,
)
from dien_jax.model.click_model import check_batch
from dien_jax.model.shapes import check_inputs, check_parts

B, T, D, H, K = 4, 6, 3, 5, 2
INPUTS = ("history", "lengths", "candidate")


@functools.cache
def arrays() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "history": draw(B, T, D),
        "lengths": jnp.array([6, 3, 1, 0]),
        "candidate": draw(B, D),
        "negatives": draw(K, B, T - 1, D),
        "is_negative": jnp.asarray(rng.random((K, B, T - 1)) < 0.8),
        "log_q": draw(1 + K, B, T - 1),
        "weights": jnp.array([1.0, 1.0, 1.0, 0.0]),
    }


class Returns(nn.Module):
    """A part of one's own, which is a function of its arguments."""

    function: Callable[..., Any]

    @nn.compact
    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def small(**parts: object) -> DIEN:
    parts = {"extractor": GRU(H), "attention": MLPAttention((4,)), "evolution": AUGRU(H), **parts}
    return DIEN(**parts)  # type: ignore[arg-type]


def made(network: DIEN, **inputs: jax.Array) -> dict:
    return jax.jit(network.init)(jax.random.key(0), **{n: arrays()[n] for n in INPUTS}, **inputs)


def applied(network: DIEN, variables: dict, *inputs: jax.Array, **options: Any) -> Any:
    """Compiled as one program: one by one, its operations take most of the time of a test."""
    return jax.jit(functools.partial(network.apply, **options))(variables, *inputs)


@pytest.mark.parametrize("loss", [BinaryAuxiliaryLoss, SoftmaxAuxiliaryLoss])
def test_init_makes_the_same_parameters_with_and_without_negatives(loss: type) -> None:
    network = small(auxiliary=loss())
    of_negatives = {name: arrays()[name] for name in ("is_negative", "log_q")}
    without = made(network, **of_negatives)
    with_them = made(network, negatives=arrays()["negatives"], **of_negatives)
    jax.tree.map(np.testing.assert_array_equal, without, with_them)
    assert "auxiliary" in without["params"]


@pytest.mark.long
def test_init_on_a_single_event_makes_all_parameters() -> None:
    class Own(nn.Module):
        """A loss with a parameter and no score."""

        @nn.compact
        def __call__(self, *arrays: jax.Array, **options: object) -> jax.Array:
            return self.param("rate", nn.initializers.ones, ())

    for loss in (BinaryAuxiliaryLoss(), SoftmaxAuxiliaryLoss(), Own()):
        network, given = small(auxiliary=loss), arrays()
        one = given["history"][:, :1], given["lengths"], given["candidate"]
        variables = jax.jit(network.init)(jax.random.key(0), *one)
        whole = jax.eval_shape(network.init, jax.random.key(0), *(given[n] for n in INPUTS))
        assert jax.tree.structure(variables) == jax.tree.structure(whole)
        output = applied(network, variables, *one, given["history"][None, :, 1:1])
        assert np.isfinite(output.auxiliary_loss)


def test_without_an_extractor_there_is_no_auxiliary_score() -> None:
    """The state of an evolution that no candidate decides is no interest state."""
    network = small(extractor=None, evolution=GRU(D))
    assert applied(network, made(network), **arrays()).auxiliary_score is None


@pytest.mark.parametrize("evolution", [GRU(H + 2), AUGRU(H + 2)])
@pytest.mark.parametrize("extractor", [None, GRU(H)])
def test_the_final_state_has_the_width_of_the_evolution(
    extractor: GRU | None, evolution: nn.Module
) -> None:
    network = small(extractor=extractor, evolution=evolution)
    run = functools.partial(jax.eval_shape, network.init_with_output, jax.random.key(0))
    output, variables = run(*(arrays()[name] for name in INPUTS))
    assert output.final_state.shape == (B, H + 2)
    encoded = jax.eval_shape(
        functools.partial(network.apply, method="encode"), variables, *map(arrays().get, INPUTS[:2])
    )
    states = jnp.ones(encoded.states.shape[1:])
    of_one = functools.partial(network.apply, method="evolve_candidates")
    shared = jax.eval_shape(of_one, variables, states, jnp.int32(2), arrays()["candidate"])
    assert shared.shape == (B, H + 2)


@pytest.mark.parametrize("loss", [BinaryAuxiliaryLoss, SoftmaxAuxiliaryLoss])
def test_every_parameter_has_a_gradient(loss: type) -> None:
    network = small(auxiliary=loss())
    variables = made(network)

    def total(params: dict) -> jax.Array:
        values = {**variables, "params": params}
        output, _ = network.apply(values, **arrays(), train=True, mutable=["batch_stats"])
        return (output.final_state**2).sum() + output.auxiliary_loss

    gradients = jax.jit(jax.grad(total))(variables["params"])
    zero = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.abs(leaf).max() > 0
    ]
    # Softmax does not see a shift of all scores.
    assert set(zero) <= {"['attention']['score']['bias']"}


def test_the_softmax_is_a_cross_entropy_of_scores_less_log_q() -> None:
    network, given = small(auxiliary=SoftmaxAuxiliaryLoss()), arrays()
    variables = made(network)
    output = applied(network, variables, **given)
    query = variables["params"]["auxiliary"]["query"]
    losses = []
    for row in range(3):  # the fourth is filler
        for step in range(int(given["lengths"][row]) - 1):
            state = output.interests[row, step] @ query["kernel"] + query["bias"]
            items = [given["history"][row, step + 1], *given["negatives"][:, row, step]]
            counted = [True, *np.asarray(given["is_negative"][:, row, step])]
            scores = [
                float(state @ item - q)
                for item, q, is_counted in zip(
                    items, given["log_q"][:, row, step], counted, strict=True
                )
                if is_counted
            ]
            losses.append(np.log(np.exp(scores).sum()) - scores[0])
    np.testing.assert_allclose(output.auxiliary_loss, np.mean(losses), rtol=1e-5)
    last = output.interests[:, -1] @ query["kernel"] + query["bias"][None]
    expected = np.where(given["lengths"] > 0, (last * given["candidate"]).sum(-1), 0)
    np.testing.assert_allclose(output.auxiliary_score, expected, atol=1e-6)


def test_the_binary_score_is_the_networks_logit_by_running_statistics() -> None:
    network = small()
    variables = made(network)
    options = {"train": True, "mutable": ["batch_stats"]}
    _, changed = applied(network, variables, **arrays(), **options)
    score, alone = (
        applied(network, {**variables, **changed}, **arrays() | weights).auxiliary_score
        for weights in ({}, {"weights": jnp.ones(B)})
    )
    np.testing.assert_array_equal(score, alone)  # a score depends on no other row
    assert score[3] == 0  # an empty history
    assert np.ptp(score[:3]) > 0


def test_a_function_is_an_auxiliary_loss_without_a_score() -> None:
    def count(states, history, negatives, positions, is_negative, *, weights, log_q, train):
        return (positions[None] & is_negative).sum().astype(jnp.float32)

    network = small(auxiliary=count)
    output = applied(network, made(network), **arrays())
    assert output.auxiliary_score is None
    live = np.arange(T - 1)[None] < np.array([5, 2, 0, 0])[:, None]
    assert int(output.auxiliary_loss) == int((live & np.asarray(arrays()["is_negative"])).sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": jnp.ones((B, T))}, r"history: expected shape \[B, T, D\], got \(4, 6\)"),
        ({"history": [[1.0]]}, r"history: expected an array, got list \[\[1.0\]\]"),
        (
            {"history": jnp.ones((B, T, D), int)},
            "history: expected embeddings in floating point, got",
        ),
        ({"lengths": jnp.ones(3, int)}, r"lengths: expected shape \[B\] with B = 4, got \(3,\)"),
        ({"lengths": 6}, r"lengths: expected an array, got int 6"),
        ({"lengths": jnp.ones(B)}, r"lengths: expected integers, got float32"),
        ({"candidate": jnp.ones((B, 2))}, r"candidate: .* \[B, D\] with B = 4, D = 3, got \(4, 2"),
        ({"negatives": jnp.ones((B, T - 1, K, D))}, r"negatives: .* T - 1 = 5, D = 3, got \(4, 5"),
        ({"negatives": jnp.ones((B, T - 1, D))}, r"negatives: expected shape \[K, B, T - 1, D\]"),
        ({"is_negative": jnp.ones((B, T - 1), bool)}, r"is_negative: .*B, T - 1\] with K = 2"),
        ({"is_negative": jnp.ones((K, B, T - 1))}, r"is_negative: expected booleans, got float32"),
        ({"log_q": jnp.ones((K, B, T - 1))}, r"log_q: expected shape \[1 \+ K, .* 1 \+ K = 3, B"),
        ({"weights": jnp.ones(1)}, r"weights: expected shape \[B\] with B = 4, got \(1,\)"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(changes: dict, message: str) -> None:
    # Without the checks of annotations under pytest, which would come first.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(check_inputs)(**{**arrays(), **changes})


def test_a_part_that_is_no_module_is_refused_by_name() -> None:
    refused = {"evolution": "agru", "attention": MLPAttention}
    for name, part in refused.items():
        network = SimpleNamespace(**{**vars(small()), name: part})
        expected = rf"{name}: expected a module such as .*\(.*\), or None, got "
        with pytest.raises(ValueError, match=expected):
            check_parts(network)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"attention": Returns(lambda candidate, states, lengths: states)},
            r"weights of the attention Returns: .* \[B, T\] with B = 4, T = 6, got \(4, 6, 5\)",
        ),
        (
            {"evolution": Returns(lambda states, attention, lengths: (states[:, -1], states))},
            r"evolution Returns: expected a pair of states \[4, 6, H\] and the last ones \[4, H\] "
            r"as its result, got shapes \(\(4, 5\), \(4, 6, 5\)\)",
        ),
        (
            {"evolution": Returns(lambda states, attention, lengths: states[:, -1])},
            r"evolution Returns: .*, got shapes \(4, 5\)",
        ),
        (
            {"extractor": Returns(lambda history, lengths, initial: history)},
            r"extractor Returns: .*, got shapes \(4, 6, 3\)",
        ),
    ],
)
def test_a_part_with_a_wrong_result_is_refused_by_name(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(small(**parts))


@pytest.mark.parametrize("evolution", [None, GRU(H)])
def test_weights_past_the_length_do_not_count(evolution: nn.Module | None) -> None:
    def even(candidate: jax.Array, states: jax.Array, lengths: jax.Array) -> jax.Array:
        return jnp.ones(states.shape[:2])

    network, length = small(attention=Returns(even), evolution=evolution), jnp.int32(3)
    variables = made(network)
    output = applied(network, variables, **arrays())
    live = np.arange(T)[None] < np.asarray(arrays()["lengths"])[:, None]
    np.testing.assert_array_equal(output.attention, live)

    def both(network: DIEN) -> tuple:
        encoded = network.encode(arrays()["history"], arrays()["lengths"])
        alone = network.evolve_candidates(encoded.states[1], length, arrays()["candidate"][:1])
        return encoded.states, alone

    states, alone = jax.jit(nn.apply(both, network))(variables)
    expected = jnp.where(live[..., None], states, 0).sum(1)
    np.testing.assert_allclose(output.final_state, expected, rtol=1e-5)
    np.testing.assert_allclose(alone[0], expected[1], rtol=1e-5)


SCHEMA = Schema(
    item=(Feature("item", "categorical", 9), Feature("category", "categorical", 4)),
    user=(Feature("user", "categorical", 3),),
    request=(Feature("hour", "categorical", 24),),
)
CATEGORIES = {"category": jnp.zeros(9, int)}
BATCH = example_batch(SCHEMA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": FeatureTables({}, {})},
         r"tables\.item: expected the features category of the schema, got none"),
        ({"negatives": jnp.zeros((1, 1), int)}, r"negatives: expected shape \[B, T - 1, K\]"),
        ({"negatives": jnp.zeros((2, 1, 1), int)},
         r"negatives: .* with B = 1, T - 1 = 1, got \(2, 1"),
        ({"batch": BATCH._replace(history=np.ones((1, 2), np.float32))},
         r"batch\.history: expected integers, got float32"),
        ({"batch": BATCH._replace(user=np.ones(1, np.float32))},
         r"batch\.user: expected integers, got float32"),
    ],
)  # fmt: skip
def test_the_click_model_refuses_missing_features_and_wrong_shapes(changes, message) -> None:
    given = {"batch": BATCH, "tables": FeatureTables(CATEGORIES, {}), "negatives": None}
    with pytest.raises(ValueError, match=message):
        check_batch(SCHEMA, **given | changes)


def test_the_click_model_checks_its_inputs() -> None:
    model, batch = ClickModel(ModelConfig(statistics=False), SCHEMA), BATCH._replace(columns={})
    with pytest.raises(ValueError, match=r"batch\.columns: expected the features hour"):
        jax.eval_shape(model.init, jax.random.key(0), batch, FeatureTables(CATEGORIES, {}))


@pytest.mark.parametrize("part", ["attention", "evolution", "auxiliary"])
def test_a_setting_without_a_module_is_told_where_programs_add_theirs(part: str) -> None:
    config = dataclasses.replace(ModelConfig(), **{part: "own"})
    table = {"attention": "ATTENTIONS", "evolution": "EVOLUTIONS", "auxiliary": "AUXILIARIES"}[part]
    message = rf"model\.{part} must be one of .*, got 'own' \(.* to dien_jax\.model\.{table} before"
    with pytest.raises(UserError, match=message):
        make_network(config)
