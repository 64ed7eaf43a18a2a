"""The jitted functions of a run, and its arrays, on one device or on those of a placement."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import Schema
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.scoring import score_batches
from dien_jax.runs.shared_checkpoints import SharedCheckpoints
from dien_jax.steps.score import make_predict_step, make_summary_step
from dien_jax.steps.sharded import make_sharded_steps
from dien_jax.steps.sharding import Placement
from dien_jax.steps.state import Tables, TrainState, create_state, placed_like, training_tables
from dien_jax.steps.train import Metrics, make_train_step
from dien_jax.training.histograms import embedding_values, live_values
from dien_jax.utils.processes import still_working, waiting_for_all

AnyCheckpoints = Checkpoints | SharedCheckpoints


class OnDevices:
    """The functions of a run, and the places of its arrays.

    Args:
      config, schema: settings and features.
      steps_per_epoch: of the schedule of learning rates.
      devices: those of all processes; more than one have a placement.

    Attributes:
      part: part of each batch that this process builds, see :class:`Loader`.
    """

    def __init__(
        self, config: Config, schema: Schema, steps_per_epoch: int, devices: Sequence[jax.Device]
    ) -> None:
        self._config, self._schema, self._steps_per_epoch = config, schema, steps_per_epoch
        self._placement = placement = None
        self.part = (0, 1)
        if len(devices) > 1:
            self._placement = placement = Placement(devices, schema)
            self.part = placement.part
        if placement is None:
            self._train_step = make_train_step(config, schema, steps_per_epoch)
            self._predict_step = make_predict_step(config, schema)
            self._summary_step = make_summary_step(config, schema)
        else:
            sharded = make_sharded_steps(config, schema, steps_per_epoch, placement)
            self._train_step, self._predict_step, self._summary_step = sharded

    def notes(self) -> list[str]:
        """Return a line that says how the run is spread, if it is."""
        placement = self._placement
        return [] if placement is None else [placement.described(self._config.train.batch_size)]

    def initial_state(self, seed: int) -> TrainState:
        """Return the fresh state."""
        return create_state(
            self._config, self._schema, self._steps_per_epoch, seed, self._placement
        )

    def tables(self, dataset: Dataset) -> Tables:
        """Return the constant inputs of steps."""
        return training_tables(dataset, self._config, self._placement)

    def step(self, state: TrainState, tables: Tables, batch: Batch) -> tuple[TrainState, Metrics]:
        """Take a training step; it donates the state."""
        with waiting_for_all():
            return self._train_step(state, tables, self._put(batch))

    def like(self, tree: Any) -> Any:
        """Return arrays, or shapes, of the form that parameters or a state have on one device."""
        return tree if self._placement is None else self._placement.like(tree)

    def joined(self, state: TrainState) -> TrainState | None:
        """Return a state in the form that it has on one device, on the host if there are more.

        With several processes, process 0 has it, and the others get None.
        """
        return state if self._placement is None else self._placement.joined(state)

    def save(
        self, checkpoints: AnyCheckpoints, step: int, state: TrainState, host: Any, *, best: bool
    ) -> None:
        """Save a state of the devices, and values of the host."""
        with waiting_for_all(f"the checkpoint of step {step}"):
            saved: Any
            if self._placement is not None and checkpoints.all_see:
                saved = self._placement.to_save(state)
            else:
                saved = self.joined(state)
            checkpoints.save(step, saved, host, best=best)

    def put(self, tree: Any, like: Any) -> Any:
        """Put arrays of the host on the devices; ``like`` are those that they replace.

        With several processes those of process 0 are taken. Arrays of other shapes or types are a
        ValueError.
        """
        expected = self.like(like)

        def checked(value: Any, shape: Any) -> Any:
            if value.shape != shape.shape or value.dtype != shape.dtype:
                raise ValueError(f"expected {shape.dtype}{shape.shape}, got {value.shape}")
            return value if self._placement is not None else placed_like(value, shape)

        if tree is not None:
            tree = jax.tree.map(checked, tree, expected)
        return tree if self._placement is None else self._placement.put(tree, expected)

    def copy_of(self, tree: Any, like: Any) -> Any:
        """Return parameters of the host on the devices, as :meth:`put`, never sharing memory."""
        if self._placement is None:
            return jax.tree.map(jnp.array, tree)
        return self.put(tree, like)

    def restore(
        self, checkpoints: AnyCheckpoints, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state of a checkpoint, where ``like`` is, and the host's values."""
        placement = self._placement
        if placement is None:
            assert isinstance(checkpoints, Checkpoints)
            return checkpoints.restore(step, like)
        by_rows = checkpoints.all_see
        shapes = placement.to_restore(like) if by_rows else placement.like(like)
        with waiting_for_all(f"the reading of the checkpoint of step {step}"):
            return checkpoints.restore(step, shapes, placement.put)

    def scores(
        self,
        loader: Loader,
        state: TrainState,
        tables: Tables,
        logit_map: Any,
        before_batch: Callable[[float], None],
    ) -> np.ndarray:
        """Return the scores of a split, float32 ``[n]``, on every process, as ``score_batches``."""
        predict = functools.partial(self._predict_step, logit_map=logit_map)
        model = (state.params, state.batch_stats, tables.features)
        with waiting_for_all():

            def step(params: Any, batch_stats: Any, features: Any, batch: Batch) -> jax.Array:
                still_working()
                return self._whole(predict(params, batch_stats, features, self._put(batch)))

            return score_batches(step, *model, loader, before_batch)

    def summary(self, batch: Batch, state: TrainState, tables: Tables) -> dict[str, np.ndarray]:
        """Return arrays for histograms: embeddings, and states and attention of a batch."""
        params, batch = state.params, self._put(batch)
        inputs = (params, state.batch_stats, tables.features, batch)
        summary = jax.device_get(self._whole(self._summary_step(*inputs)))
        layouts = {} if self._placement is None else self._placement.layouts
        values = embedding_values(params, layouts)
        return {**live_values(summary, self._whole(batch)), **values}

    def _put(self, batch: Batch) -> Batch:
        """Return a batch, on its devices if there are several."""
        return batch if self._placement is None else self._placement.put_batch(batch)

    def _whole(self, tree: Any) -> Any:
        """Return arrays that this process can read as a whole."""
        placement = self._placement
        return tree if placement is None or placement.part[1] == 1 else placement.whole(tree)
