"""A training state and its step, on real or synthetic data."""

from typing import Any

import numpy as np

from benchmarks.common.cases import CATEGORIES, random_batch, schema_of
from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.devices import Placement
from dien_jax.steps.negatives import Sampler, make_sampler
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, create_state
from dien_jax.steps.train import make_train_step

BATCHES = 8


class Training:
    """A training state with random parameters, and its step; an epoch has ``count`` steps."""

    def __init__(
        self,
        config: Config,
        schema: Schema,
        tables: Tables,
        count: int = 100,
        place: OneDevice | None = None,
    ) -> None:
        self.tables, self.place = tables, place or OneDevice(schema)
        self.state = create_state(config, schema, count, 0, self.place)
        self.step: Any = make_train_step(config, schema, count, self.place)

    def take(self, batch: Batch) -> dict[str, Any]:
        """Take a step, and return its metrics."""
        self.state, metrics = self.step(self.state, self.tables, batch)
        return metrics

    def compiled(self, batch: Batch) -> Any:
        """Return the compiled step for batches of this shape."""
        return self.step.lower(self.state, self.tables, batch).compile()


def on_made_tables(config: Config, items: int, devices: int = 1) -> Training:
    """Return a training on synthetic items and categories, without counts of events."""
    config, schema = with_settings(config, {"model.statistics": False}), schema_of(items)
    place = Placement(devices, schema) if devices > 1 else OneDevice(schema)
    sampler = map(place.put_items, make_sampler(np.ones(items, np.int64)))
    category: Any = made_categories(items)
    features = place.put_features(FeatureTables({"category": category}, {}))
    return Training(config, schema, Tables(features, Sampler(*sampler)), place=place)


def made_categories(items: int) -> np.ndarray:
    """Return the category of each item, ``[I]``."""
    return np.arange(items, dtype=np.int32) % CATEGORIES


def made_batches(place: OneDevice, size: int, steps: int, items: int) -> list[Batch]:
    """Draw ``BATCHES`` batches of histories of ``steps`` events."""
    rng = np.random.default_rng(0)
    return [place.put_batch(random_batch(rng, size, steps, items)) for _ in range(BATCHES)]
