"""The authors' form against figures that their own program computed (tests/golden).

One forward and backward pass of each of their models on a small made input. Tolerances: 2e-6 on
probabilities, 1e-5 relative on losses, 1e-4 of the largest entry on every gradient.
"""

import dataclasses
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.config.presets import AUTHORS, FAMILY, member
from dien_jax.config.settings import ModelConfig
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.errors import UserError
from dien_jax.model.authors import from_authors
from dien_jax.model.click_model import ClickModel
from dien_jax.steps import click_loss, halved_click_loss

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = tuple(FAMILY)
RECURRENT = tuple(name for name in MODELS if FAMILY[name].get("extractor", "gru") == "gru")
OTHERS = (("agru", "reference"), *((n, "native") for n in RECURRENT if n != "dien"))
EXACT = "wide_deep"
"""The one model of theirs that adds no 1e-8 to its probabilities."""
SCHEMA = Schema(
    item=(Feature("item", "categorical", 120), Feature("category", "categorical", 15)),
    user=(Feature("user", "categorical", 40),),
)


def load(name: str) -> dict[str, dict[str, np.ndarray]]:
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / f"{name}.npz") as archive:
        for key in archive.files:
            kind, _, rest = key.partition("/")
            groups.setdefault(kind, {})[rest] = archive[key]
    return groups


def item_category_pairs(inputs: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Their input feeds items and categories apart; ours gathers the one by the other.

    The made ids do not belong together, so each position gets an item row of its own.
    """
    pairs = [(inputs["mid"], inputs["cat"]), (inputs["mid_his"], inputs["cat_his"])]
    if "noclk_mid" in inputs:
        pairs.append((inputs["noclk_mid"][:, 1:, :1], inputs["noclk_cat"][:, 1:, :1]))
    return pairs


def prepare(name: str, config: ModelConfig):
    """Their figures, our model, its parameters from theirs, and the inputs of a step."""
    golden = load(name)
    inputs, variables = golden["input"], golden["param"]
    params = from_authors(variables, name)

    # One item row per distinct (item, category) pair of the input.
    pairs = item_category_pairs(inputs)
    flat = np.concatenate([np.stack([m.ravel(), c.ravel()], 1) for m, c in pairs])
    rows, where = np.unique(flat, axis=0, return_inverse=True)
    params["item_embeddings"]["item"] = params["item_embeddings"]["item"][rows[:, 0]]
    ids, start = [], 0
    for members, _ in pairs:
        ids.append(where[start : start + members.size].reshape(members.shape).astype(np.int32))
        start += members.size
    schema = dataclasses.replace(
        SCHEMA, item=(Feature("item", "categorical", len(rows)), SCHEMA.item[1])
    )
    tables = FeatureTables({"category": jnp.asarray(rows[:, 1], jnp.int32)}, {})
    size = inputs["mid"].shape[0]
    batch = Batch(
        history=ids[1],
        lengths=inputs["seq_len"].astype(np.int32),
        item=ids[0],
        user=inputs["uid"].astype(np.int32),
        label=inputs["target"][:, 0],
        weight=np.ones(size, np.float32),
        columns={},
    )
    negatives = jnp.asarray(ids[2]) if name == "dien" else None
    params = jax.tree.map(jnp.asarray, params)
    return golden, ClickModel(config, schema), params, (batch, tables, negatives), rows[:, 0]


def run(name: str, implementation: str):
    """Probabilities, losses and gradients of our model, in the authors' variables' layout."""
    config = dataclasses.replace(member(name, AUTHORS.model), implementation=implementation)
    golden, model, params, inputs, items = prepare(name, config)
    batch = inputs[0]

    def loss(params):
        output = model.apply({"params": params}, *inputs, train=True)
        labelled = output.logits, jnp.asarray(batch.label), jnp.asarray(batch.weight)
        click = 0.5 * click_loss(*labelled) if name == EXACT else halved_click_loss(*labelled)
        total = click + config.auxiliary_weight * output.auxiliary_loss
        return total, (jax.nn.sigmoid(output.logits), output.auxiliary_loss)

    (total, (scores, auxiliary)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params
    )
    item_gradient = np.zeros((120, 18), np.float32)
    np.add.at(item_gradient, items, np.asarray(gradients["item_embeddings"]["item"]))
    gradients["item_embeddings"]["item"] = item_gradient
    return golden, scores, total, auxiliary, gradients


def gradient_errors(name: str, golden: dict, gradients: dict) -> dict[str, float]:
    """Largest deviation of each gradient, relative to that gradient's largest entry."""
    expected = from_authors(golden["grad"], name)
    errors = {}
    for path, want in jax.tree_util.tree_leaves_with_path(expected):
        got = gradients
        for part in path:
            got = got[part.key]
        where = "/".join(part.key for part in path)
        assert got.shape == want.shape, where
        largest = max(np.abs(want).max(), 1e-4 if where == "network/attention/score/bias" else 0)
        errors[where] = float(np.abs(np.asarray(got) - want).max() / largest)
    assert len(errors) == len(jax.tree.leaves(gradients))
    return errors


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "xla") for name in MODELS if name != "dien"]
    + [pytest.param("dien", name, marks=pytest.mark.optimised) for name in ("xla", "native")]
    + [("dien", "reference")]
    + [pytest.param(*case, marks=pytest.mark.long) for case in OTHERS],
)
def test_authors_form_gives_their_figures(name: str, implementation: str) -> None:
    golden, scores, total, auxiliary, gradients = run(name, implementation)
    output = golden["output"]
    added = 0 if name == EXACT else 1e-8
    np.testing.assert_allclose(scores, output["y_hat"][:, 0] - added, atol=2e-6, rtol=0)
    np.testing.assert_allclose(total, output["loss"], rtol=1e-5)
    hits = (np.asarray(scores) > 0.5) == (golden["input"]["target"][:, 0] > 0.5)
    np.testing.assert_allclose(hits.mean(), output["accuracy"], rtol=1e-6)
    if name == "dien":
        np.testing.assert_allclose(auxiliary, output["aux_loss"], rtol=1e-5)
    errors = gradient_errors(name, golden, gradients)
    assert max(errors.values()) <= 1e-4, errors


def test_a_missing_variable_is_named() -> None:
    variables = load("augru")["param"]
    del variables["gru2/gates/bias"]
    with pytest.raises(UserError, match="'gru2/gates/bias' is missing"):
        from_authors(variables, "augru")


@pytest.mark.parametrize(
    ("variables", "name", "message"),
    [
        (Path("ckpt"), "dien", r"variables must be arrays by name, .*, got PosixPath\('ckpt'\)"),
        ({}, "DIEN", r"unknown model 'DIEN' \(models: base_model, .*, dien\)"),
    ],
)
def test_what_is_no_model_of_the_authors_is_refused(variables, name, message) -> None:
    with pytest.raises(UserError, match=message):
        inspect.unwrap(from_authors)(variables, name)
