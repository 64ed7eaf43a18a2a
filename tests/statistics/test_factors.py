"""Factors of who chose what in training, and of what came next."""

import numpy as np
import pytest
from support import small_dataset

from dien_jax import UserError, open_dataset
from dien_jax.data.tables import FOLDS, ValueFactors, factor_levels, folds_of, with_scale
from dien_jax.statistics import factors
from dien_jax.statistics.counting import count_values
from dien_jax.statistics.training_events import TrainingEvents

pytestmark = pytest.mark.fast

VALUES, USERS, LENGTH = 60, 200, 8


def factorise(
    events: TrainingEvents,
    value_of: np.ndarray,
    size: int,
    *,
    transitions: bool = False,
    **options,
) -> ValueFactors:
    """Vectors of a log, whose interactions are counted first."""
    options.setdefault("interactions", int(count_values(events, value_of, size)[0].count.sum()))
    found = factors.factorise(events, value_of, size, transitions=transitions, **options)
    return with_scale(*found, transitions=transitions)


def log(values: int = VALUES) -> TrainingEvents:
    """Return users of two tastes; the last event of each is its target."""
    generator = np.random.default_rng(0)
    low = np.where(generator.random((USERS, 1)) < 0.5, 1, values // 2)
    items = (low + generator.integers(0, values // 2, (USERS, LENGTH))).astype(np.int32)
    ends = np.arange(1, USERS + 1) * LENGTH - 1
    starts = np.arange(USERS + 1) * LENGTH
    labels = np.ones(USERS, np.int8)
    return TrainingEvents(items.reshape(-1), starts, np.arange(USERS), ends, items[:, -1], labels)


def normalised(events: TrainingEvents, users: np.ndarray) -> np.ndarray:
    """Return the matrix that is factorised, as the module's docstring defines it."""
    chose = np.zeros((USERS, VALUES))
    chose[np.repeat(np.arange(USERS), LENGTH), events.event_item] = 1
    chose[:, 0] = 0
    chose = chose[users]
    scale = np.sqrt(np.maximum(chose.sum(1, keepdims=True), 1) * np.maximum(chose.sum(0), 1))
    return chose / scale


def gram(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float64) @ vectors.astype(np.float64).T


@pytest.mark.parametrize("table", [0, 1, FOLDS])
def test_vectors_are_those_of_a_singular_value_decomposition(table: int) -> None:
    events, components = log(), factor_levels(VALUES)[-1]
    row, vectors, _ = factorise(events, np.arange(VALUES), VALUES)
    matrix = normalised(events, np.flatnonzero(folds_of(np.arange(USERS)) != table))
    _, singular, right = np.linalg.svd(matrix, full_matrices=False)
    expected = right[:components].T * np.sqrt(singular[:components])
    norm = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = np.where(norm > 1e-6, expected / np.maximum(norm, 1e-6), 0)
    # Float16 rounds each component by 5e-4 of itself at most.
    np.testing.assert_allclose(gram(vectors[table][row]), gram(expected), atol=2e-3)


def transitions(events: TrainingEvents, users: np.ndarray) -> np.ndarray:
    """Return the matrix of what came next, as the module's docstring defines it."""
    counts = np.zeros((VALUES, VALUES))
    for user in users:
        start, end = events.offsets[user : user + 2]
        order = list(dict.fromkeys(events.event_item[start:end].tolist()))
        order = [value for value in order if value]
        for place, value in enumerate(order):
            for lag, later in enumerate(order[place + 1 : place + 4], 1):
                counts[value, later] += 1 / lag
    of_earlier, of_later = (np.maximum(counts.sum(axis), 1) for axis in (1, 0))
    return counts / np.sqrt(of_earlier[:, None] * of_later)


@pytest.mark.long
@pytest.mark.parametrize("table", [0, FOLDS])
def test_vectors_of_transitions_are_those_of_a_decomposition_of_what_came_next(table: int) -> None:
    events, components = log(32), factor_levels(VALUES)[-1]  # so few values have no error
    row, vectors, scale = factorise(events, np.arange(VALUES), VALUES, transitions=True)
    assert vectors.shape[2] == 3 * components
    matrix = transitions(events, np.flatnonzero(folds_of(np.arange(USERS)) != table))
    left, singular, right = np.linalg.svd(matrix)
    expected = [(side[:, :components] * np.sqrt(singular[:components])) for side in (left, right.T)]
    norms = [np.linalg.norm(side, axis=1, keepdims=True) for side in expected]
    earlier, later = (
        side / np.where(norm > 1e-6, norm, np.inf)
        for side, norm in zip(expected, norms, strict=True)
    )
    found = vectors[table][row].astype(np.float64)
    as_event, as_next = (found[1:, part * components :][:, :components] for part in (1, 2))
    # Float16 rounds each component by 5e-4 of itself at most.
    np.testing.assert_allclose(as_event @ as_next.T, earlier[1:] @ later[1:].T, atol=2e-3)
    alone = factorise(events, np.arange(VALUES), VALUES)
    np.testing.assert_array_equal(vectors[..., :components], alone.vectors)
    np.testing.assert_array_equal(scale[..., : alone.scale.shape[2]], alone.scale)


def test_a_table_does_not_know_the_users_of_its_fold() -> None:
    events, user = log(), 17
    _, before, _ = factorise(events, np.arange(VALUES), VALUES, transitions=True)
    start, end = events.offsets[user : user + 2]
    changed = events.event_item.copy()
    changed[start:end] = changed[start:end] % (VALUES - 1) + 1
    items = events.item.copy()
    items[user] = changed[end - 1]
    events = events._replace(event_item=changed, item=items)
    _, after, _ = factorise(events, np.arange(VALUES), VALUES, transitions=True)
    fold = int(folds_of(np.array([user]))[0])
    for table in range(1 + FOLDS):
        assert np.array_equal(before[table], after[table]) == (table == fold)


def test_users_are_divided_evenly() -> None:
    counts = np.bincount(folds_of(np.arange(100_000, dtype=np.int32)))
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 100_000, 1 / FOLDS, atol=0.01)


def test_unknown_and_unchosen_values_have_no_vector() -> None:
    events = log()
    items = np.where(events.event_item == 5, 0, events.event_item)
    events = events._replace(event_item=items, item=np.where(events.item == 5, 0, events.item))
    row, vectors, _ = factorise(events, np.arange(VALUES), VALUES)
    assert row[0] == row[5] == 0
    assert not vectors[:, 0].any()
    assert (np.delete(row, [0, 5]) > 0).all()


def test_the_most_chosen_values_have_vectors_if_there_are_too_many() -> None:
    events = log()
    row, vectors, _ = factorise(events, np.arange(VALUES), VALUES, most_values=20)
    users = (normalised(events, np.arange(USERS)) > 0).sum(0)
    assert vectors.shape[1] == 21
    assert users[row > 0].min() >= users[row == 0].max()


def test_only_some_users_of_a_long_log_are_read() -> None:
    events, given = log(), {"interactions": 2 * factors.MAX_INTERACTIONS}
    _, limited, _ = factorise(events, np.arange(VALUES), VALUES, **given)
    other = events.event_item.copy()
    other[LENGTH : 2 * LENGTH] = 1  # the second user, whom a step of two leaves out
    _, same, _ = factorise(events._replace(event_item=other), np.arange(VALUES), VALUES, **given)
    np.testing.assert_array_equal(limited, same)


def test_levels_need_three_values_for_a_component() -> None:
    assert factor_levels(47) == ()
    assert factor_levels(48) == (16,)
    assert factor_levels(10_000) == (16, 32, 64, 128)


def test_no_training_events_give_no_vectors() -> None:
    none = np.zeros(0, np.int32)
    events = TrainingEvents(none, np.zeros(1, np.int64), none, none, none, none)
    row, vectors, _ = factorise(events, np.arange(VALUES), VALUES, transitions=True)
    assert not row.any()
    assert vectors.shape == (1 + FOLDS, 1, 3 * 16)


@pytest.mark.long
@pytest.mark.parametrize(
    "histories",
    [
        [[1 + user % 599] for user in range(3000)],
        [list(range(1, 11))] * 3000,
        [[2 * pair + 1, 2 * pair + 2] for pair in range(299)] * 5,
        [*[list(range(1, 11))] * 3000, *([item] for item in range(11, 600))],
        [list(range(1 + user, 21 + user)) for user in range(25)],
    ],
    ids=["one event", "the same events", "pairs", "the same events and rare ones", "few users"],
)
def test_logs_whose_users_span_few_dimensions_have_finite_vectors(histories) -> None:
    """Such singular values are equal or 0, which an iteration may not survive."""
    items = np.concatenate(histories).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    users, ends = np.arange(len(histories)), offsets[1:] - 1
    labels = np.ones(len(users), np.int8)
    events = TrainingEvents(items, offsets, users, ends, items[ends], labels)
    _, vectors, scale = factorise(events, np.arange(600), 600, transitions=True)
    assert np.isfinite(vectors).all()
    assert np.isfinite(scale).all()
    parts = np.stack(np.split(vectors.astype(np.float32), 3, axis=2))
    norms = np.linalg.norm(parts, axis=3)
    assert ((norms == 0) | (np.abs(norms - 1) < 2e-3)).all()
    assert norms[0, 0].any()


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vectors.npy", np.zeros(7, np.float16), "as row.npy has 59 rows, found 7"),
        ("vectors.npy", np.full(800, 2, np.float16), "entry 0 should be from -1 to 1, found 2.0"),
        ("vectors.npy", np.full(800, np.nan, np.float16), "should be from -1 to 1, found nan"),
        ("vectors.npy", np.zeros(800), "expected one dimension of float16"),
        ("row.npy", np.full(60, 10**6, np.int32), "should be at least 0 and below"),
        ("row.npy", np.arange(60, dtype=np.int32) // 2, "as row.npy has 30 rows, found"),
        ("row.npy", np.zeros(3, np.int32), "expected 60 entries, found 3"),
    ],
)
def test_damaged_files_are_refused(file, values, message, tmp_path) -> None:
    data = small_dataset.write_wide(tmp_path / "data")
    np.save(data / "statistics" / "item" / "factors" / file, values)
    with pytest.raises(UserError, match=message):
        open_dataset(data)
