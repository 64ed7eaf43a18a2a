"""The jitted functions of a run, and its arrays, on one device or on several."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch, is_live
from dien_jax.model.tower import Part, of_part
from dien_jax.runs.checkpoints import Checkpoints, restored
from dien_jax.runs.trained import score_batches
from dien_jax.steps.optimizer import epochs_of, learning_rate
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.score import make_predict_step, make_summary_step
from dien_jax.steps.state import Tables, TrainState, create_state, parts, training_tables
from dien_jax.steps.train import Metrics, make_train_step
from dien_jax.training.progress import all_steps

HISTOGRAM_ROWS = 65_536
"""Maximum number of rows, evenly spaced, in the histogram of an embedding table."""


def place_on(devices: Sequence[jax.Device], schema: Schema) -> OneDevice:
    """Return the place of a run's arrays; with one device it is the default one."""
    if len(devices) <= 1:
        return OneDevice(schema)
    from dien_jax.devices import Placement  # not loaded where one device is enough

    return Placement(devices, schema)


class OnDevices:
    """The functions of a run, and the places of its arrays.

    Args:
      config, schema: settings and features.
      steps_per_epoch: of the schedule of learning rates.
      devices: those of all processes.

    Attributes:
      place: where the arrays are.
      steps: maximum number of steps of each part of the model.
      learning_rates: schedule of each part.
    """

    def __init__(
        self, config: Config, schema: Schema, steps_per_epoch: int, devices: Sequence[jax.Device]
    ) -> None:
        self._config, self._schema, self._steps_per_epoch = config, schema, steps_per_epoch
        self.place = place_on(devices, schema)
        self.steps = {
            part: all_steps(steps_per_epoch, epochs_of(config, part))
            for part in parts(config.model)
        }
        self.learning_rates = {
            part: learning_rate(config, steps_per_epoch, part) for part in parts(config.model)
        }
        self._train_steps = {
            part: make_train_step(config, schema, steps_per_epoch, self.place, part)
            for part in parts(config.model)
        }
        self._predict_steps = {
            part: make_predict_step(config, schema, self.place, part)
            for part in parts(config.model)
        }
        self._summary_step = make_summary_step(config, schema, self.place)

    def initial_state(self, seed: int) -> TrainState:
        """Return the fresh state."""
        return create_state(self._config, self._schema, self._steps_per_epoch, seed, self.place)

    def tables(self, dataset: Dataset) -> Tables:
        """Return the constant inputs of steps."""
        return training_tables(dataset, self._config, self.place)

    def step(
        self, part: Part, state: TrainState, tables: Tables, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """Take a training step of a part of the model; it donates the state."""
        return self._train_steps[part](state, tables, self.place.put_batch(batch))

    def save(
        self, checkpoints: Checkpoints, step: int, state: TrainState, host: Any, *, best: bool
    ) -> None:
        """Save a state of the devices, and values of the host."""
        checkpoints.save(step, self.place.to_save(state), host, best=best)

    def restore(
        self, checkpoints: Checkpoints, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state of a checkpoint, where ``like`` is, and the host's values."""
        return restored(checkpoints, step, like, self.place)

    def put(self, tree: Any, like: Any) -> Any:
        """Put arrays of the host on the devices; ``like`` are those that they replace.

        With several processes those of process 0 are taken. Arrays of other shapes or types are a
        ValueError.
        """

        def check(value: Any, shape: Any) -> None:
            if value.shape != shape.shape or value.dtype != shape.dtype:
                raise ValueError(f"expected {shape.dtype}{shape.shape}, got {value.shape}")

        if tree is not None:
            jax.tree.map(check, tree, self.place.like(like))
        return self.place.put(tree, like)

    def scores(
        self,
        part: Part,
        loader: Loader,
        state: TrainState,
        tables: Tables,
        logit_map: Any,
        before_batch: Callable[[float], None],
    ) -> np.ndarray:
        """Return the scores of a split, float32 ``[n]``, on every process, as ``score_batches``.

        They are those of the tower alone or, of the network, of the whole model.
        """
        predict = functools.partial(self._predict_steps[part], logit_map=logit_map)
        model = (state.params, state.batch_stats, tables.features)

        def step(params: Any, batch_stats: Any, features: Any, batch: Batch) -> jax.Array:
            batch = self.place.put_batch(batch)
            return self.place.readable(predict(params, batch_stats, features, batch))

        return score_batches(step, *model, loader, before_batch)

    def summary(self, batch: Batch, state: TrainState, tables: Tables) -> dict[str, np.ndarray]:
        """Return arrays for histograms: embeddings, and states and attention of a batch."""
        batch = self.place.put_batch(batch)
        inputs = (state.params, state.batch_stats, tables.features, batch)
        summary = jax.device_get(self.place.readable(self._summary_step(*inputs)))
        values = _embedding_values(state.params, self.place)
        return {**_live_values(summary, self.place.readable(batch)), **values}


def tower_of(state: TrainState) -> tuple[Any, Any]:
    """Return a copy of the parameters and the running statistics of a state's tower."""
    tower = of_part(state.params, "tower"), of_part(state.batch_stats, "tower")
    return _copied(tower)  # a step donates the state


_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def _live_values(summary: Mapping[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
    """Return the entries of a summary of a batch that belong to events, or to real rows."""
    live = is_live(np.asarray(batch.lengths), batch.history.shape[1])
    places = {"final_state": np.asarray(batch.weight) > 0}
    return {name: value[places.get(name, live)] for name, value in summary.items()}


def _embedding_values(params: Mapping[str, Any], place: OneDevice) -> dict[str, np.ndarray]:
    """Return rows of every embedding table, at most ``HISTOGRAM_ROWS`` each, evenly apart."""
    shapes = place.like(params)
    values = {}
    for group in ("item", "user", "context"):
        for name, table in params.get(f"{group}_embeddings", {}).items():
            rows = shapes[f"{group}_embeddings"][name].shape[0]
            apart = np.arange(0, rows, -(-rows // HISTOGRAM_ROWS))
            taken = table[place.slots((group, name), apart)]
            values[f"{group}_embeddings/{name}"] = np.asarray(place.readable(taken))
    return values
