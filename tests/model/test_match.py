"""The share of a history that has the candidate's attributes, where these have several values."""

import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.data.schema import Feature, MultiValued
from dien_jax.model.statistics import _match

TAGS = Feature("tags", "multivalued", 9, 3)
OF_EVENTS = MultiValued(jnp.array([[[5, 7, 7], [6, 4, 7]]]), jnp.array([[1, 2]]))
"""Two events of one user, with tag 5 and with tags 6 and 4; slots past a count hold anything."""


@pytest.mark.parametrize(
    ("tags", "count", "expected"),
    [
        ([8, 4, 7], 2, 1 / 2 * 1 / 1.5),  # 4 is a tag of the last event, whose weight is 1
        ([8, 4, 7], 1, 0),  # neither 4 nor 7 is a tag of the candidate
        ([8, 3, 5], 3, 1 / 3 * 0.5 / 1.5),  # 5 is a tag of the event before
    ],
)
def test_a_candidate_matches_by_each_of_its_tags_and_by_none_past_their_count(
    tags, count, expected
) -> None:
    """One row, so that an index past the candidate's slots cannot be hidden by other rows."""
    candidate = {"tags": MultiValued(jnp.array([tags]), jnp.array([count]))}
    history = {"item": jnp.array([[1, 2]]), "tags": OF_EVENTS}
    found = _match([TAGS], candidate, history, jnp.array([2]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
