"""Peers train on our batches, if installed."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import untrained_run

from benchmarks import peers as train_peers
from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.steps.train import make_loss

pytestmark = [pytest.mark.long, pytest.mark.repository]

ITEM, CATEGORY, USER = (
    Feature(name, "categorical", size) for name, size in (("item", 5), ("category", 3), ("user", 4))
)
SCHEMA = Schema((ITEM, CATEGORY), (USER,))


def batch_of(steps: int) -> Batch:
    """Three real rows and a filler row; the first history is empty."""
    row = np.arange(4, dtype=np.int32)
    return Batch(
        history=np.arange(4 * steps, dtype=np.int32).reshape(4, steps) % 5,
        lengths=np.array([0, 2, steps, steps], np.int32),
        item=row,
        user=row,
        label=np.array([0, 1, 1, 0], np.float32),
        weight=(row < 3).astype(np.float32),
        context={},
    )


def test_peers_are_those_installed(monkeypatch, capsys) -> None:
    here = {"dien_jax": "benchmarks.common.timing"}
    monkeypatch.setattr(train_peers, "PEERS", {**here, "no-such-package": "no_such_module"})
    found = train_peers.installed()
    assert {name: module.__name__ for name, module in found.items()} == here
    assert capsys.readouterr().err == "no-such-package is not installed: left out\n"
    monkeypatch.setattr(train_peers, "PEERS", {"no-such-package": "", "nor-this": ""})
    with pytest.raises(SystemExit, match="no-such-package, nor-this: none is installed"):
        train_peers.installed()


def test_peers_get_the_same_real_rows() -> None:
    found, again = (train_peers.arrays_of([batch_of(4), batch_of(8)], 5) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    for arrays, steps in zip(found, (4, 8), strict=True):
        assert arrays.history.shape == arrays.negatives.shape == (3, steps)
        assert set(np.unique(arrays.negatives)) <= {1, 2, 3, 4}
        assert arrays.lengths.tolist() == [1, 2, steps]
        assert len(arrays.item) == len(arrays.user) == len(arrays.label) == 3


def test_peers_refuse_other_features() -> None:
    assert train_peers.table_sizes(SCHEMA) == {"item": 5, "category": 3, "user": 4}
    with pytest.raises(SystemExit, match=r"found \['item', 'user'\]"):
        train_peers.table_sizes(Schema((ITEM,), (USER,)))


@pytest.mark.parametrize("package", train_peers.PEERS)
def test_an_installed_peer_has_one_model_for_all_lengths(package) -> None:
    pytest.importorskip(package.replace("-", "_"))
    peer = importlib.import_module(train_peers.PEERS[package])
    category = np.array([0, 1, 1, 2, 2], np.int32)
    config = Config(model=ModelConfig(auxiliary_weight=1.0))  # the click loss counts as much
    short, long = peer.steps_of(config, SCHEMA, category, [batch_of(4), batch_of(8)])
    before = long()
    for _ in range(30):
        short()
    assert long() < 0.9 * before


def test_the_graph_of_tensorflow_computes_our_loss_and_gradients() -> None:
    tf = pytest.importorskip("tensorflow")
    peer = importlib.import_module("benchmarks.peers.tensorflow_dien")
    small = dataclasses.replace(untrained_run.SMALL, auxiliary_layers=(5, 4), dropout=0.0)
    config = Config(model=peer.own_settings(small))
    state = untrained_run.random_state(config, SCHEMA)
    category, batch = np.array([0, 1, 1, 2, 2], np.int32), batch_of(8)
    (arrays,) = train_peers.arrays_of([batch], 5)
    real = Batch(
        history=arrays.history, lengths=arrays.lengths, item=arrays.item, user=arrays.user,
        label=arrays.label, weight=np.ones(3, np.float32), context={},
    )  # fmt: skip
    ours = jax.value_and_grad(make_loss(config, SCHEMA), has_aux=True)
    tables = FeatureTables({"category": jnp.asarray(category)}, {})
    negatives = jnp.asarray(arrays.negatives[:, 1:, None], jnp.int32)
    key = jax.random.key(0)
    (loss, (moved, _)), gradients = ours(
        state.params, state.batch_stats, tables, real, negatives, key
    )

    model = peer.TensorFlowDien(config, state.params, state.batch_stats, category)
    with tf.GradientTape() as tape:
        found, logits = model.loss(*peer.prepare(arrays))
    of_leaves = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(found, model.variables)]
    assert logits.shape == (3,)
    # float32, and sums over 8 steps in another order
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    for mine, theirs in zip(jax.tree.leaves(gradients), of_leaves, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5 * scale)
    statistics = [leaf.numpy() for leaf in jax.tree.leaves(model.statistics)]
    for mine, theirs in zip(jax.tree.leaves(moved), statistics, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)
