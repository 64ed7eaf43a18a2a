"""Inputs of the click network that are counts of training events."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small_dataset

from dien_jax import Loader, ModelConfig, TrainConfig, open_dataset
from dien_jax.data.schema import Feature, MultiValued, Schema
from dien_jax.data.tables import OWN_PAIR, OWN_VALUE, FeatureTables
from dien_jax.model.click_model import ClickModel
from dien_jax.model.statistics import OF_VALUE, _match, statistics_inputs, statistics_names
from dien_jax.statistics.counting import count_features, count_values
from dien_jax.statistics.training_events import TrainingEvents

SCHEMA = Schema((Feature("item", "categorical", 6),), (Feature("user", "categorical", 3),))
EVENTS = np.array([1, 2, 3, 1, 2, 4, 2, 3], np.int32)
OFFSETS = np.array([0, 3, 6, 8])
EXAMPLES = TrainingEvents(
    EVENTS,
    OFFSETS,
    sequence=np.array([0, 1, 2, 2]),
    history_end=np.array([2, 5, 7, 7]),
    item=np.array([3, 4, 3, 5]),
    label=np.array([1, 1, 1, 0]),
)
"""Users 1 2 3, 1 2 4 and 2 3; the target is the last event."""


run = jax.jit(functools.partial(statistics_inputs, SCHEMA))


def inputs(history: list[int], candidate: int, bits: int = 0) -> dict[str, float]:
    counts, _ = count_values(EXAMPLES, np.arange(6), 6)
    row = np.full((1, 4), 4, np.int32)  # what follows the history may be anything
    row[0, : len(history)] = history
    values = run(
        FeatureTables({}, {}, {"item": counts}),
        {"item": jnp.array([candidate], jnp.int32)},
        {"item": jnp.asarray(row)},
        jnp.array([len(history)], jnp.int32),
        jnp.array([[bits]], jnp.int8),
    )
    return dict(zip(statistics_names(SCHEMA), np.asarray(values)[0].tolist(), strict=True))


def test_inputs_are_what_their_names_say() -> None:
    """All users chose 3 last, so order changes its counts with nothing; 1 never follows 2."""
    found = inputs([1, 2], 3)
    # Of 1 and 3, and of 2 and 3: users of both times all users, over counts plus 1.
    lifts = [np.log1p(1 * 3 / (3 * 3)), np.log1p(2 * 3 / (4 * 3))]
    rules = 1 / 2 / np.sqrt(3) + 2 / np.sqrt(4)
    expected = {
        "length": np.log1p(2),
        "item popularity": np.log1p(2),
        "item repeat_share": 0,
        "item lift": sum(lifts) / 2,
        "item most_lift": max(lifts),
        "item recent_lift": (lifts[0] / 2 + lifts[1]) / 1.5,
        "item last_lift": lifts[1],
        "item order_lift": sum(lifts) / 2,
        "item most_order_lift": max(lifts),
        "item recent_order_lift": (lifts[0] / 2 + lifts[1]) / 1.5,
        "item last_order_lift": lifts[1],
        "item rules": np.log1p(rules),
        "item rules_by_root": np.log1p(rules),  # 3 has as many users plus 1 as there are users
        "item rules_by_users": np.log1p(rules),
        "item history_popularity": (np.log1p(2) + np.log1p(3)) / 2,
    }
    assert found == pytest.approx(expected, rel=1e-6)
    found = inputs([2], 1)
    assert found["item last_lift"] == pytest.approx(np.log1p(2 * 3 / (4 * 3)))
    assert found["item last_order_lift"] == found["item rules"] == 0
    found, rule = inputs([1], 4), 1 / np.sqrt(3)
    assert found["item rules_by_root"] == pytest.approx(np.log1p(rule * np.sqrt(3 / 2)))
    assert found["item rules_by_users"] == pytest.approx(np.log1p(rule * 3 / 2))


def test_own_event_is_left_out() -> None:
    """The training example of the first user sees the log without that user's last event."""
    found = inputs([1, 2], 3, OWN_VALUE | OWN_PAIR)
    assert found["item popularity"] == pytest.approx(np.log1p(1))
    for name in ("item last_lift", "item last_order_lift"):
        assert found[name] == pytest.approx(np.log1p(1 * 3 / (4 * 2)))  # of the third user


def test_repeats_and_unknown_values() -> None:
    found = inputs([2, 1, 2], 2)
    assert found["item repeat_share"] == pytest.approx(2 / 3)
    unknown = inputs([0, 1, 0], 0)
    zeros = [name for name in OF_VALUE if name != "history_popularity"]
    assert [unknown[f"item {name}"] for name in zeros] == [0] * len(zeros)


def test_an_empty_history_and_a_log_without_pairs_have_finite_inputs() -> None:
    assert np.isfinite(list(inputs([], 3).values())).all()
    alone = TrainingEvents(
        EVENTS[:1], np.array([0, 1]), *([np.array([0])] * 2), EVENTS[:1], EVENTS[:1]
    )
    counts, _ = count_values(alone, np.arange(6), 6)
    tables = FeatureTables({}, {}, {"item": counts})
    first = jnp.ones(1, jnp.int32)
    values = {"item": first}, {"item": first[:, None]}
    assert np.isfinite(run(tables, *values, first)).all()


def test_stored_counts_are_those_of_the_folder(data: Path) -> None:
    stored = open_dataset(data)
    for (name, counts, own), bits in zip(
        count_features(stored), stored.statistics.own, strict=True
    ):
        np.testing.assert_array_equal(bits, own)
        jax.tree.map(np.testing.assert_array_equal, stored.statistics.values[name], counts)


def test_only_training_batches_have_own_bits(data: Path) -> None:
    dataset = open_dataset(data)
    train = Loader(dataset, "train", TrainConfig(batch_size=4), statistics=True)
    indices = train.example_indices(0, 0)
    own = train.batch(0, 0).own
    np.testing.assert_array_equal(
        own[: len(indices)], np.stack(dataset.statistics.own, -1)[indices]
    )
    assert own.any()
    for split in ("valid", "test"):
        held_out = Loader(dataset, split, TrainConfig(batch_size=4), statistics=True)
        assert held_out.batch(0, 0).own is None


def test_a_model_with_statistics_refuses_tables_without(tmp_path: Path) -> None:
    dataset = open_dataset(small_dataset.write(tmp_path / "small"))
    loader = Loader(dataset, "train", TrainConfig(batch_size=4))
    model = ClickModel(ModelConfig(statistics=True), dataset.schema)
    with pytest.raises(ValueError, match="feature_tables, or choose ModelConfig"):
        jax.eval_shape(model.init, jax.random.key(0), loader.batch(0, 0), dataset.feature_tables())


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
    found = jax.jit(functools.partial(_match, [TAGS]))(candidate, history, jnp.array([2]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
