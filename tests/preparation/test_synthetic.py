"""Simulated users: what is known about them holds, and order decides."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_dataset import contents

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation.sources import synthetic
from dien_jax.preparation.sources.synthetic import FORMS, SyntheticOptions, prepare, simulate

pytestmark = pytest.mark.fast


def make(out: Path, **options: Any) -> Dataset:
    prepare(SyntheticOptions(out, **({"users": 300} | options)))
    return open_dataset(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("synthetic") / "data")


@pytest.fixture(scope="module")
def simulated() -> synthetic.Simulated:
    return simulate(2000, np.random.default_rng(1))


def test_seed_alone_decides_the_folder(tmp_path: Path) -> None:
    first = contents(make(tmp_path / "a", users=50).path)
    assert first == contents(make(tmp_path / "b", users=50).path)
    other = contents(make(tmp_path / "c", users=50, seed=1).path)
    for name in ("events/item/values.npy", "examples/train/label/values.npy"):
        assert first[name] != other[name]


def test_best_possible_scores_are_those_of_the_true_probabilities(data: Dataset) -> None:
    simulated = simulate(len(data.groups()), np.random.default_rng(0))
    for split in ("valid", "test"):
        rows, best = data.splits[split], data.meta["best_possible"][split]
        chosen = np.isin(simulated.user, rows.group)
        assert rows.label.tolist() == simulated.label[chosen].tolist()
        assert best["auc"] == auc(rows.label, simulated.probability[chosen])
        assert best["logloss"] == logloss(rows.label, simulated.probability[chosen])


def test_labels_are_drawn_from_the_true_probabilities(simulated: synthetic.Simulated) -> None:
    order = np.argsort(simulated.probability)
    for part in np.array_split(order, 10):
        chance = simulated.probability[part].astype(np.float64)
        spread = np.sqrt((chance * (1 - chance)).sum())
        assert abs(simulated.label[part].sum() - chance.sum()) < 4 * spread


def test_items_have_readable_names_and_features(data: Dataset) -> None:
    names, kinds, forms = (data.vocabulary(name) for name in ("item", "kind", "form"))
    kind, form = data.items["kind"].values, data.items["form"].values
    assert names[1:] == [f"{kinds[kind[k]]} {forms[form[k]]}" for k in range(1, len(names))]
    assert len(names) == 1 + len(synthetic.KINDS) * len(FORMS)


def test_users_are_split_whole_and_held_out_ones_have_no_row(data: Dataset) -> None:
    groups = {split: set(rows.group.tolist()) for split, rows in data.splits.items()}
    assert [len(groups[split]) for split in ("train", "valid", "test")] == [240, 30, 30]
    assert len(set.union(*groups.values())) == 300
    assert data.splits["train"].user.all()
    for split in ("valid", "test"):
        assert not data.splits[split].user.any()


def test_popularity_counts_training_users_only(data: Dataset) -> None:
    users = np.unique(data.splits["train"].sequence)
    events = np.asarray(data.event_item).reshape(-1, synthetic.LONGEST)[users]
    assert data.popularity.tolist() == np.bincount(events.ravel(), minlength=37).tolist()


def visits_of(events: np.ndarray) -> list[tuple[int, list[int]]]:
    """Return the kind and prices of each visit, of which the last one may be cut."""
    things = (divmod(event, len(FORMS)) for event in events.tolist())
    things = [(kind, form) for kind, form in things if form < synthetic.PRICES]
    runs = [(kind, [price for _, price in run]) for kind, run in groupby(things, lambda t: t[0])]
    assert all(len(prices) == synthetic.VISIT for _, prices in runs[:-1])
    return runs


def probability_of(prices: list[int], trend: int) -> float:
    """Return the probability of the prices of a visit, summed over all that the visit hides."""
    ways = {trend: 1 - synthetic.AGAINST, -trend: synthetic.AGAINST}
    starts = range(synthetic.PRICES - synthetic.VISIT + 1)
    found = 0.0
    for way, chance in ways.items():
        for cheapest in starts:
            whole = list(range(cheapest, cheapest + synthetic.VISIT))[::way]
            found += chance / len(starts) * (whole[: len(prices)] == prices)
    return found


def test_probabilities_are_those_of_all_hidden_trends(simulated: synthetic.Simulated) -> None:
    """Bayes' rule, by enumeration of the trends and of how each visit may have come about."""
    for row in range(400):
        kind, form = divmod(int(simulated.item[row]), len(FORMS))
        history = simulated.event[simulated.user[row]][: simulated.history[row]]
        of_kind = [prices for visited, prices in visits_of(history) if visited == kind]
        likelihoods = {
            trend: np.prod([probability_of(prices, trend) for prices in of_kind])
            for trend in (-1, 1)
        }
        expected = 0.0
        for trend, likelihood in likelihoods.items():
            fits = synthetic.FIT if (form == synthetic.NEW) == (trend == 1) else synthetic.MISFIT
            of_visited = synthetic.THING if form < synthetic.PRICES else fits
            click = of_visited if of_kind else synthetic.OTHER
            expected += click * likelihood / sum(likelihoods.values())
        assert simulated.probability[row] == pytest.approx(expected, rel=1e-6)


def test_things_without_their_order_say_nothing(simulated: synthetic.Simulated) -> None:
    """Rising and falling visits have the same things, and no offer depends on them."""
    things = {1: np.zeros(synthetic.PRICES), -1: np.zeros(synthetic.PRICES)}
    for events in simulated.event:
        for _, prices in visits_of(events):
            if len(prices) == synthetic.VISIT:
                things[np.sign(prices[-1] - prices[0])] += np.bincount(
                    prices, minlength=synthetic.PRICES
                )
    rising, falling = (counts / counts.sum() for counts in things.values())
    np.testing.assert_allclose(rising, falling, atol=0.02)


@pytest.mark.parametrize("layer", ["data", "metrics", "preparation/pipeline", "statistics"])
def test_data_of_other_code_is_not_used(layer, tmp_path):
    digest = synthetic.code_digest(tmp_path)
    (tmp_path / layer).mkdir(parents=True)
    (tmp_path / layer / "module.py").write_text("x = 1")
    assert synthetic.code_digest(tmp_path) != digest
    assert synthetic.code_digest() != synthetic.code_digest(tmp_path)
