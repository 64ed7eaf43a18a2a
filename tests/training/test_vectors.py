"""Item embeddings that start from the vectors of the factorization."""

from pathlib import Path

import jax
import numpy as np
import pytest
from support.small_dataset import write_wide

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import create_state
from dien_jax.training.vectors import NORM, with_vectors

pytestmark = pytest.mark.long

LEVEL = 16
"""Components of the vectors of this data."""


def test_values_with_a_vector_start_from_it_and_all_else_at_random(tmp_path: Path) -> None:
    dataset = open_dataset(write_wide(tmp_path / "wide"))
    config = Config(model=ModelConfig(embedding_size=LEVEL + 2, hidden_size=4, statistics=False))
    state = create_state(config, dataset.schema, 1, seed=0)
    random = jax.device_get(state.params)
    started = with_vectors(state, dataset.schema, dataset.factors, OneDevice(dataset.schema)).params
    before, after = (np.asarray(params["item_embeddings"]["item"]) for params in (random, started))
    factors = dataset.factors["item"]
    vectors = np.float32(factors.vectors[0])[factors.row, :LEVEL]
    has_vector = np.linalg.norm(vectors, axis=1) > 0
    assert has_vector.sum() > 40
    assert not has_vector[0]  # the unknown item
    np.testing.assert_array_equal(after[~has_vector], before[~has_vector])
    np.testing.assert_array_equal(after[:, LEVEL:], before[:, LEVEL:])
    unit = vectors[has_vector] / np.linalg.norm(vectors[has_vector], axis=1, keepdims=True)
    np.testing.assert_allclose(after[has_vector, :LEVEL], NORM * unit, rtol=1e-6)
    np.testing.assert_array_equal(
        started["user_embeddings"]["user"], random["user_embeddings"]["user"]
    )
