"""Datasets: schema, dataset folders, vocabularies, and the loader of padded batches.

Names below are imported when they are first used, because a model needs only the schema.
"""

from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names

if TYPE_CHECKING:
    from dien_jax.data.arrays import Examples
    from dien_jax.data.dataset import Dataset, open_dataset
    from dien_jax.data.loader import Loader, evaluation_loader
    from dien_jax.data.schema import Column, Feature, MultiValued, Schema
    from dien_jax.data.tables import Batch, FeatureTables, example_batch

__all__ = [
    "Batch",
    "Column",
    "Dataset",
    "Examples",
    "Feature",
    "FeatureTables",
    "Loader",
    "MultiValued",
    "Schema",
    "evaluation_loader",
    "example_batch",
    "open_dataset",
]

__getattr__, __dir__ = lazy_names(__name__, __file__)
