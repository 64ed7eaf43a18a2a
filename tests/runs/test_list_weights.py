"""Weights of the parts of a score in lists: their fit, and what they change."""

from functools import partial

import numpy as np
import pytest
from support import untrained_run
from support.json_files import edit_json
from support.small_dataset import write_wide

from dien_jax.errors import UserError
from dien_jax.inference import list_metrics
from dien_jax.inference.list_metrics import fitted_weights, list_targets, measure_finished
from dien_jax.inference.lists import ItemLists
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.list_weights import WEIGHTS, ListWeights, fit_list_weights
from dien_jax.runs.trained import TrainedModel, load_run

HISTORY = ["i9", "i1", "i40"]
PLAIN = ListWeights(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("weights")
    data = write_wide(folder / "data")
    edit_json(data / "meta.json", "split", "negative_distribution", value="popularity")
    return load_run(untrained_run.write(folder / "run", data, buckets=()))


def scores(
    model: TrainedModel, weights: ListWeights | None, history=HISTORY, user=None
) -> dict[str, float]:
    """The scores of all items by id."""
    ranker = Ranker(model._replace(list_weights=weights))
    ranking = ranker.recommend(history, 100, user=user, exclude_history=False)
    return dict(sorted(zip(ranking.ids, ranking.scores.tolist(), strict=True)))


def values(model: TrainedModel, **weights: float) -> np.ndarray:
    alone = dict.fromkeys(WEIGHTS, 0.0) | {"offset": 1e-6} | weights
    return np.array([*scores(model, ListWeights(1, **alone)).values()])


def test_the_weights_that_clicks_were_drawn_with_are_found() -> None:
    random, clicks = np.random.default_rng(0), 3000
    truth, sizes = np.array([0.5, 0.1, 20.0]), random.integers(2, 30, clicks)
    x = [random.normal(size=(size, 3)) * [1, 2, 0.05] + random.normal() for size in sizes]
    places = [int((of @ truth + random.gumbel(size=len(of))).argmax()) for of in x]
    parts = {name: [of[:, column] for of in x] for column, name in enumerate("abc")}
    constant = {"constant": [np.full(size, 3.0) for size in sizes]}
    found = fit_list_weights(parts | constant, places)
    assert [*found] == ["a", "b", "c"]
    np.testing.assert_allclose([*found.values()], truth, rtol=0.1, atol=0.05)


@pytest.mark.long
def test_a_list_has_the_weighted_sum_of_the_parts_and_rank_stays(trained) -> None:
    parts = {name: values(trained, **{name: 1.0}) for name in WEIGHTS}
    assert all(part.std() > 0.01 for part in parts.values())
    given = {"tower": 0.5, "rules": 0.3, "click_network": 2.0, "auxiliary_score": 1.5,
             "offset": 0.7}  # fmt: skip
    expected = sum(given[name] * part for name, part in parts.items())
    np.testing.assert_allclose(values(trained, **given), expected, atol=1e-4)
    plain = np.array([*scores(trained, None).values()])
    np.testing.assert_allclose([*scores(trained, PLAIN).values()], plain, atol=1e-4)
    before, after = (
        Ranker(trained._replace(list_weights=weights)).rank(HISTORY, ["i4", "i50"])
        for weights in (None, ListWeights(1, **given))
    )
    assert (after.ids, after.scores.tolist()) == (before.ids, before.scores.tolist())


@pytest.mark.long
def test_fitted_weights_give_clicks_of_validation_the_largest_likelihood(
    trained, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(list_metrics, "LEAST_TARGETS", 10)
    fitted = fitted_weights(trained)
    monkeypatch.setattr("dien_jax.inference.lists.USERS_AT_ONCE", 4)  # in threads
    monkeypatch.setattr(list_metrics, "ItemLists", partial(ItemLists, exact_items=1))
    in_stages = fitted_weights(trained)
    for name in WEIGHTS:
        assert getattr(in_stages, name) == pytest.approx(getattr(fitted, name), rel=0.02, abs=0.01)
    names, users = (trained.dataset.vocabulary(name) for name in ("item", "user"))
    targets = list_targets(trained.dataset, "valid")
    assert fitted.fitted_on == {"split": "valid", "clicks": 14, "shortlisted": len(targets)}

    def likelihood(**changes: float) -> float:
        total = 0.0
        for target in targets:
            weights = ListWeights(1, **{n: getattr(fitted, n) for n in WEIGHTS} | changes)
            history = [names[row] for row in target.history]
            user = users[trained.dataset.splits["valid"].user[target.example]]
            of_items = scores(trained, weights, history, user)
            fresh = {name: score for name, score in of_items.items() if name not in history}
            total += fresh[names[target.item]] - np.logaddexp.reduce([*fresh.values()])
        return total

    best = likelihood()
    assert best > likelihood(**{name: getattr(PLAIN, name) for name in WEIGHTS})
    for name in WEIGHTS:
        weight = getattr(fitted, name)
        for other in {1.3 * weight + 0.05, max(0.7 * weight - 0.05, 1e-6)} - {weight}:
            assert likelihood(**{name: other}) < best + 1e-3, name
    run = untrained_run.write(tmp_path / "run", trained.dataset.path, buckets=())
    measure_finished(run, trained.dataset, least=5)
    assert load_run(run).list_weights == fitted_weights(trained)
    ListWeights(7).save(run)
    with pytest.raises(UserError, match="was fitted on the checkpoint of step 7"):
        load_run(run)
