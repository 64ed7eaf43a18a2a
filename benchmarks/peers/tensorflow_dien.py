"""DIEN in TensorFlow, as a graph, on the same batches, see :mod:`benchmarks.peers`.

Written from the equations: the parts, sizes, initial parameters and losses of our ``dien`` preset,
without the logistic regression and counts. ``tests/benchmarks/test_peers.py`` compares the
loss, its gradients and running statistics with ours. A step is one ``tf.function``, traced for each
padded length. The inputs of all gates are one product, ``tf.while_loop`` runs over steps with one
product of recurrent states, and Adam is TensorFlow's own operation.

Dimensions: B batch, T steps, S = T - 1, G gates, H hidden.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from benchmarks.peers import Arrays, arrays_of, table_sizes
from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema
from dien_jax.model.batch_norm import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, DICE_EPSILON
from dien_jax.steps.state import create_state

tf.config.threading.set_intra_op_parallelism_threads(len(os.sched_getaffinity(0)))

VERSIONS = {"tensorflow": version("tensorflow")}
Moments = tuple[Any, Any]


def _recurrence(weights: Any, x: Any, lengths: Any, attention: Any = None) -> Any:
    """Return all states, ``[B, T, H]``, of a GRU or, with attention, of an AUGRU (paper's form)."""
    (batch, steps), hidden = x.shape[:2], weights["recurrent"].shape[0]
    recurrent = tf.reshape(weights["recurrent"], (hidden, 3 * hidden))
    projected = tf.tensordot(x, tf.reshape(weights["input"], (-1, 3 * hidden)), 1)
    projected += tf.reshape(weights["bias"], (-1,))
    inputs = tf.TensorArray(tf.float32, steps).unstack(tf.transpose(projected, (1, 0, 2)))
    scales = tf.ones((steps, batch)) if attention is None else tf.transpose(attention)
    scales = tf.TensorArray(tf.float32, steps).unstack(scales[..., None])

    def step(now: Any, state: Any, states: Any) -> Any:
        reset, update, candidate = tf.split(inputs.read(now), 3, axis=1)
        of_reset, of_update, of_candidate = tf.split(tf.matmul(state, recurrent), 3, axis=1)
        r = tf.sigmoid(reset + of_reset)
        u = scales.read(now) * tf.sigmoid(update + of_update)
        moved = (1 - u) * state + u * tf.tanh(candidate + r * of_candidate)
        state = tf.where((now < lengths)[:, None], moved, state)
        return now + 1, state, states.write(now, state)

    _, _, states = tf.while_loop(
        lambda now, *_: now < steps,
        step,
        (0, tf.zeros((batch, hidden)), tf.TensorArray(tf.float32, steps)),
        maximum_iterations=steps,
    )
    return tf.transpose(states.stack(), (1, 0, 2))


def _dense(layer: Any, x: Any) -> Any:
    return tf.tensordot(x, layer["kernel"], 1) + layer.get("bias", 0.0)


def _moments(x: Any, live: Any) -> Moments:
    """Return mean and variance of the columns over live rows, ``live`` 1 or 0."""
    axes, weight = tuple(range(len(x.shape) - 1)), live[..., None]
    count = tf.maximum(tf.reduce_sum(live), 1)
    mean = tf.reduce_sum(weight * x, axes) / count
    return mean, tf.reduce_sum(weight * tf.square(x - mean), axes) / count


class TensorFlowDien:
    """A model and its optimizer; :meth:`step` trains on a batch from :func:`prepare`.

    Args:
      config: settings.
      params: parameters of our model by name; those of the logistic regression are ignored.
      batch_stats: its running statistics.
      category: that of each item, ``[items]``.
    """

    def __init__(
        self, config: Config, params: dict[str, Any], batch_stats: Any, category: np.ndarray
    ) -> None:
        self._config, self._category = config, tf.constant(category)
        own = {name: part for name, part in params.items() if name != "logistic_regression"}
        self.params = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf)), own)
        self.statistics = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf)), batch_stats)
        self.variables = jax.tree.leaves(self.params)
        self._slots = [
            [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in self.variables]
            for _ in range(2)
        ]
        self._powers = [tf.Variable(1.0, trainable=False) for _ in range(2)]
        self._train = tf.function(self._update)

    def step(self, *batch: Any) -> float:
        """Run one update, as a graph."""
        return float(self._train(*batch))

    def _update(self, *batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss, _ = self.loss(*batch)
        gradients = tape.gradient(loss, self.variables)
        for power, decay in zip(self._powers, (0.9, 0.999), strict=True):
            power.assign(power * decay)
        for variable, gradient, *slots in zip(self.variables, gradients, *self._slots, strict=True):
            first, second = (slot.handle for slot in slots)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=first, v=second, beta1_power=self._powers[0],
                beta2_power=self._powers[1], lr=self._config.optim.learning_rate, beta1=0.9,
                beta2=0.999, epsilon=1e-8, grad=tf.convert_to_tensor(gradient),
            )  # fmt: skip
        return loss

    def loss(
        self, history: Any, negatives: Any, lengths: Any, item: Any, user: Any, label: Any
    ) -> tuple[Any, Any]:
        """Return the loss of a training step, and the logits ``[B]``."""
        params, model = self.params, self._config.model
        behaviours, candidate = self._items(history), self._items(item)
        live = tf.sequence_mask(lengths, history.shape[1], tf.float32)
        states = _recurrence(params["extractor"], behaviours, lengths)
        attention = self._attention(candidate, states, live)
        evolved = _recurrence(params["evolution"], states, lengths, attention)[:, -1]
        total = tf.reduce_sum(behaviours * live[..., None], 1)
        pooled = total / tf.reduce_sum(live, 1, keepdims=True)
        of_user = tf.gather(params["user_embeddings"]["user"], user)
        parts = [of_user, candidate, pooled, candidate * pooled, evolved]
        logits = self._mlp(tf.concat(parts, 1))
        click = tf.nn.sigmoid_cross_entropy_with_logits(label, logits)
        auxiliary = self._auxiliary(states, behaviours, history, negatives, live)
        return tf.reduce_mean(click) + model.auxiliary_weight * auxiliary, logits

    def _items(self, ids: Any) -> Any:
        tables = self.params["item_embeddings"]
        rows = [tf.gather(tables["item"], ids)]
        return tf.concat([*rows, tf.gather(tables["category"], tf.gather(self._category, ids))], -1)

    def _attention(self, candidate: Any, states: Any, live: Any) -> Any:
        params = self.params["attention"]
        query = _dense(params["query"], candidate)
        query = tf.where(query > 0, query, params["query_activation"]["alpha"] * query)
        query = tf.broadcast_to(query[:, None], states.shape)
        value = tf.concat([query, states, query - states, query * states], -1)
        value = tf.sigmoid(_dense(params, value))
        for index in range(1, len(self._config.model.attention_layers)):
            value = tf.sigmoid(_dense(params[f"layer_{index}"], value))
        scores = _dense(params["score"], value)[..., 0]
        return tf.nn.softmax(tf.where(live > 0, scores, -1e30), axis=-1)

    def _norm(self, place: tuple[str, ...], x: Any, live: Any) -> Any:
        """Normalise by the moments of the batch, and move the running ones."""
        mean, variance = self._moved(place, _moments(x, live))
        params = functools.reduce(lambda tree, name: tree[name], place, self.params)
        scale = params["scale"] * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)
        return x * scale + (params["bias"] - mean * scale)

    def _moved(self, place: tuple[str, ...], moments: Moments) -> Moments:
        kept = functools.reduce(lambda tree, name: tree[name], place, self.statistics)
        new = {"mean": moments[0], "var": moments[1], "total_weight": 1.0}
        for name, value in new.items():
            moved = BATCH_NORM_MOMENTUM * kept[name] + (1 - BATCH_NORM_MOMENTUM) * value
            kept[name].assign(moved)
        return moments

    def _mlp(self, x: Any) -> Any:
        params, model = self.params["mlp"], self._config.model
        live = tf.ones(x.shape[0])
        x = self._norm(("mlp", "norm"), x, live)
        for index in range(len(model.layers)):
            x = _dense(params[f"layer_{index}"], x)
            place = ("mlp", f"activation_{index}", "BatchNorm_0")
            mean, variance = self._moved(place, _moments(x, live))
            p = tf.sigmoid((x - mean) * tf.math.rsqrt(variance + DICE_EPSILON))
            x = (params[f"activation_{index}"]["alpha"] * (1 - p) + p) * x
            if model.dropout:
                x = tf.nn.dropout(x, model.dropout)
        return _dense(params["logit"], x)[:, 0]

    def _auxiliary(
        self, states: Any, behaviours: Any, history: Any, negatives: Any, live: Any
    ) -> Any:
        params, following = self.params["auxiliary"], history[:, 1:]
        positions = live[:, 1:]
        valid = positions * tf.cast(negatives[:, 1:] != following, tf.float32)
        both = tf.stack([behaviours[:, 1:], self._items(negatives[:, 1:])])
        before = self._norm(("auxiliary_norm_state",), states[:, :-1], positions)
        both = self._norm(("auxiliary_norm_behaviour",), both, tf.stack([positions, valid]))
        value = tf.sigmoid(_dense(params["state"], before) + _dense(params["behaviour"], both))
        for index in range(1, len(self._config.model.auxiliary_layers)):
            value = tf.sigmoid(_dense(params[f"layer_{index}"], value))
        real, sampled = tf.unstack(_dense(params["score"], value)[..., 0])

        def mean(losses: Any, counted: Any) -> Any:
            return tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)

        return mean(tf.nn.softplus(-real), positions) + mean(tf.nn.softplus(sampled), valid)


def own_settings(model: ModelConfig) -> ModelConfig:
    """Return the settings of the model here, for the sizes of another."""
    sizes = ("embedding_size", "hidden_size", "attention_layers", "auxiliary_layers", "layers")
    others = ("auxiliary_weight", "dropout", "recurrence")
    kept = {name: getattr(model, name) for name in (*sizes, *others)}
    return ModelConfig(statistics=False, logistic_regression=False, **kept)


def prepare(arrays: Arrays) -> list[Any]:
    """Return the arguments of a step."""
    ids = (arrays.history, arrays.negatives, arrays.lengths, arrays.item, arrays.user)
    return [*(tf.constant(values.astype(np.int32)) for values in ids), tf.constant(arrays.label)]


def steps_of(
    config: Config, schema: Schema, category: np.ndarray, batches: list[Batch]
) -> list[Callable[[], float]]:
    """Return a train step for each batch; ``category`` is that of each item, ``[items]``."""
    sizes = table_sizes(schema)
    config = dataclasses.replace(config, model=own_settings(config.model))
    state = create_state(config, schema, 1, seed=0)
    peer = TensorFlowDien(config, state.params, state.batch_stats, category)
    prepared = [prepare(arrays) for arrays in arrays_of(batches, sizes["item"])]
    return [functools.partial(peer.step, *arguments) for arguments in prepared]
