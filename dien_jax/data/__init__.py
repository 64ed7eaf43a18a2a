"""Datasets: schema, dataset folders, vocabularies, and the loader of padded batches.

Plain NumPy: Flax, Optax and Orbax do not enter, nor does anything that knows the model.
"""

from dien_jax.data.batch import Batch, example_batch
from dien_jax.data.dataset import Column, Dataset, Examples, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.data.part_writer import PartWriter
from dien_jax.data.schema import Feature, FeatureTables, MultiValued, Schema
from dien_jax.data.writer import DatasetWriter

__all__ = [
    "Batch",
    "Column",
    "Dataset",
    "DatasetWriter",
    "Examples",
    "Feature",
    "FeatureTables",
    "Loader",
    "MultiValued",
    "PartWriter",
    "Schema",
    "evaluation_loader",
    "example_batch",
    "open_dataset",
]
