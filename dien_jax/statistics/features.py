"""Statistics of every feature of a dataset: counts of values, and vectors of values."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dien_jax.data.columns import chained
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Feature
from dien_jax.data.statistics_files import CountedFeature, Statistics
from dien_jax.data.tables import ValueFactors, factor_features, statistics_features
from dien_jax.statistics.counting import count_values
from dien_jax.statistics.factors import factorise, work_of
from dien_jax.statistics.training_events import training_parts
from dien_jax.utils.machine import Progress, part_of_progress, unseen


def count_features(
    dataset: Dataset, folder: Path | None = None, progress: Progress = unseen
) -> Iterator[CountedFeature]:
    """Count the values of every feature with statistics, one feature after another.

    With a ``folder``, counts that memory need not hold are in files there for a while.
    """
    features, parts = statistics_features(dataset.schema), training_parts(dataset)
    for number, feature in enumerate(features):
        of_feature = part_of_progress(progress, number, 1, len(features))
        value_of = _value_of(dataset, feature)
        with contextlib.ExitStack() as stack:
            files = None
            if folder is not None:
                files = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            counted = count_values(parts, value_of, feature.size or 0, files, of_feature)
        yield CountedFeature(feature.name, *counted)
        del counted  # while the next feature is counted


def count_training_events(dataset: Dataset) -> Statistics:
    """Count the values of every feature with statistics in the training events of a dataset.

    >>> from dien_jax import open_dataset
    >>> from dien_jax.statistics import count_training_events
    >>> dataset = open_dataset("data")
    >>> int(count_training_events(dataset).values["item"].count.sum())
    76
    """
    counted = list(count_features(dataset))
    values = {feature.name: feature.values for feature in counted}
    return Statistics(values, tuple(chained(feature.own) for feature in counted))


def factorise_training_events(
    dataset: Dataset,
    interactions: Mapping[str, int] = MappingProxyType({}),
    progress: Progress = unseen,
) -> dict[str, ValueFactors]:
    """Return the vectors of every feature that has some, from the training events of a dataset.

    >>> from dien_jax import open_dataset
    >>> from dien_jax.statistics import factorise_training_events
    >>> factorise_training_events(open_dataset("data"))  # of more than 48 items
    {}

    Args:
      dataset: the dataset.
      interactions: the number of interactions of a feature's values, where it is known.
      progress: called with the share of the work that is done.
    """
    schema, parts = dataset.schema, training_parts(dataset)
    features, factors, done = factor_features(schema), {}, 0
    work = [work_of(f.size or 0, transitions=f is schema.item[0]) for f in features]
    for feature, own in zip(features, work, strict=True):
        factors[feature.name] = factorise(
            parts,
            _value_of(dataset, feature),
            feature.size or 0,
            interactions=interactions.get(feature.name),
            transitions=feature is schema.item[0],
            progress=part_of_progress(progress, done, own, sum(work)),
        )
        done += own
    return factors


def _value_of(dataset: Dataset, feature: Feature) -> np.ndarray:
    """Return the value of a feature for each item."""
    if feature is dataset.schema.item[0]:
        return np.arange(dataset.schema.num_items)
    return np.asarray(dataset.items[feature.name].values)
