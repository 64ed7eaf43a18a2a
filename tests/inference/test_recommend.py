"""Lists of the best of all items: corrected scores, filters, ties, two stages, an exported file."""

import dataclasses
import inspect
import re
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import jaxtyping
import numpy as np
import pytest
from support import small_dataset, untrained_run
from support.compilations import COMPILED

from dien_jax.data import dataset as datasets
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.inference import bucketed_programs
from dien_jax.inference.bucketed_programs import BucketedPrograms, EncodedRequest, History
from dien_jax.inference.lists import USERS_AT_ONCE, ItemLists, ListOptions, log_odds
from dien_jax.inference.loaded_model import LoadedModel
from dien_jax.inference.ranker import Ranker
from dien_jax.inference.shortlist import Shortlist, stage_sizes
from dien_jax.runs.calibration import OFFSETS_FILE, list_offsets
from dien_jax.runs.trained import load_run
from dien_jax.steps.rank import make_programs

CHOSEN = np.array([0.0, 0.5, 0.2, 0.15, 0.1, 0.05])
"""Probability of the next item, given a history."""
COUNTS = np.array([9, 10, 200, 40, 100, 0])
"""Training events of the items; the unknown one and the last are on no list."""
NO_ROWS = np.zeros(0, np.int32)


def options(n=10, **changes) -> ListOptions:
    plain = ListOptions(n, exclude_history=True, candidates=None, exclude=NO_ROWS, at_most={})
    return plain._replace(**changes)


def lists(offsets, exact_items=100, **features) -> ItemLists:
    tables = {f"tables/item/{name}": np.array(values) for name, values in features.items()}
    model = Mock(LoadedModel, schema=small_dataset.SCHEMA, tables=tables)
    model.list_offsets, model.list_weights = np.float32(offsets), None
    return ItemLists(model, Mock(BucketedPrograms), exact_items)


@pytest.fixture(scope="module")
def wide_run(tmp_path_factory):
    """A run on a folder of 59 items that has factors."""
    folder = tmp_path_factory.mktemp("wide")
    data = small_dataset.write_wide(folder / "data")
    return untrained_run.write(folder / "run", data, model="base_model", buckets=())


def test_a_ranker_reads_no_file_once_it_is_made(wide_run, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(wide_run, tmp_path / "run")
    data = shutil.copytree(wide_run.parent / "data", tmp_path / "data")
    monkeypatch.setattr(datasets, "open_folder", partial(datasets.open_folder, in_memory=0))
    ranker = Ranker(folder, data, exact_items=10)
    limits = dict.fromkeys((f.name for f in ranker.schema.item if f.kind == "categorical"), 2)
    del limits["item"]
    before = ranker.recommend([], 5, at_most=limits)
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        file.write_bytes(b"?" * file.stat().st_size)
    after = ranker.recommend([], 5, at_most=limits)
    assert (after.ids, after.scores.tolist()) == (before.ids, before.scores.tolist())


@pytest.mark.parametrize("drawn", ["popularity", "uniform", "shown", None])
def test_scores_of_the_best_classifier_are_the_probabilities_of_the_next_item(
    drawn, data, tmp_path
) -> None:
    """Positives and negatives are counted as they are drawn, and their ratio is the score."""
    random, draws = np.random.default_rng(0), 400_000
    known = COUNTS > 0
    of_positives = CHOSEN * known / CHOSEN[known].sum()
    of_negatives = {
        "popularity": COUNTS * (CHOSEN > 0) / COUNTS[CHOSEN > 0].sum(),
        "uniform": known * (CHOSEN > 0) / (known & (CHOSEN > 0)).sum(),
    }
    if drawn in of_negatives:
        positive, negative = (
            np.bincount(random.choice(len(CHOSEN), draws, p=p), minlength=len(CHOSEN))
            for p in (of_positives, of_negatives[drawn])
        )
        scores = positive / np.maximum(positive + negative, 1)
    else:  # every item was shown, and clicked with the odds of CHOSEN
        scores = CHOSEN / (1 + CHOSEN)
    split = {} if drawn is None else {"negative_distribution": drawn}
    dataset = dataclasses.replace(open_dataset(data), popularity=COUNTS, meta={"split": split})
    made = lists(list_offsets(dataset))
    (rows,) = made.candidates(options(), [NO_ROWS], [NO_ROWS])
    assert rows.tolist() == [1, 2, 3, 4]
    listed, corrected = made.best(rows, np.float32(scores)[rows], options())
    assert listed.tolist() == [1, 2, 3, 4]
    odds = np.exp(corrected) / np.exp(corrected).sum()
    np.testing.assert_allclose(odds, of_positives[1:5], rtol=0.03)  # four deviations of counts
    made._programs.score = lambda requests, **_: [
        np.float32(scores)[r.candidates] for r in requests
    ]
    requests = [EncodedRequest(History(np.zeros(n, np.int32)), NO_ROWS, {}) for n in (0, 1, 0)]
    made_lists = list(made.rows_of_requests(requests, [NO_ROWS] * 3, options(2)))
    assert made_lists[1][0].tolist() == [1, 2]
    for first, score in made_lists[::2]:  # of no history: most popular, where negatives were drawn
        assert first.tolist() == ([2, 4] if drawn == "popularity" else [1, 2])
        share = np.log(np.array([200, 100]) / 350)
        assert drawn != "popularity" or np.allclose(score, share)


def test_the_files_of_the_authors_draw_by_popularity(data) -> None:
    meta = {"source": {"name": "authors"}, "split": {"policy": "by-user"}}
    counts = np.array([9, 1, 200, 40, 100, 0])
    dataset = dataclasses.replace(open_dataset(data), popularity=counts, meta=meta)
    expected = [-np.inf, *np.log(counts[1:5] / counts[1:].sum()), -np.inf]
    np.testing.assert_allclose(list_offsets(dataset), expected, rtol=1e-6)
    assert (list_offsets(dataclasses.replace(dataset, popularity=0 * counts)) == -np.inf).all()


def test_equal_scores_are_in_the_order_of_items() -> None:
    made = lists([-np.inf, *np.zeros(8)])
    rows = np.arange(1, 9)
    for n in (1, 3, 5, 8, 20):
        listed, _ = made.best(
            rows, np.float32([0.5, 0.2, 0.5, 0.9, 0.5, 0.2, 0.5, 0.5]), options(n)
        )
        assert listed.tolist() == [4, 1, 3, 5, 7, 8, 2, 6][:n]


def test_at_most_k_items_of_a_value_are_listed_and_unknown_values_are_not_limited() -> None:
    made = lists([-np.inf, *np.zeros(6)], category=[0, 1, 1, 2, 1, 0, 0])
    rows, scores = np.arange(1, 7), np.float32([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    listed, _ = made.best(rows, scores, options(5, at_most={"category": 1}))
    assert listed.tolist() == [1, 3, 5, 6]
    listed, _ = made.best(rows, scores, options(3, at_most={"category": 2}))
    assert listed.tolist() == [1, 2, 3]


def test_odds_of_scores_at_0_and_1_are_finite() -> None:
    assert np.isfinite(log_odds(np.float32([0, 1e-30, 1 - 2**-24, 1]))).all()


@pytest.mark.long
def test_a_list_has_the_corrected_scores_of_rank_and_leaves_out_what_it_should(
    wide_run, monkeypatch
) -> None:
    monkeypatch.setattr(bucketed_programs, "CANDIDATE_BUCKETS", (16, 512))
    trained = load_run(wide_run)
    offsets, names = trained.list_offsets.copy(), trained.dataset.vocabulary("item")
    offsets[1:] += np.log(np.arange(1, len(offsets)))
    ranker = Ranker(trained._replace(list_offsets=offsets))
    history = ["i9", "i1", "i9"]
    allowed = [name for row, name in enumerate(names) if row and np.isfinite(offsets[row])]
    assert 16 < len(allowed) <= 64  # several slices
    ranked = ranker.rank(history, allowed, "u3")
    score = dict(zip(ranked.ids, log_odds(ranked.scores), strict=True))
    score = {name: odds + offsets[names.index(name)] for name, odds in score.items()}
    ordered = sorted(score, key=lambda name: -score[name])

    def listed(n, **filters) -> list[str]:
        found = ranker.recommend(history, n, user="u3", **filters)
        expected = [score[name] for name in found.ids]
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
        return found.ids

    fresh = [name for name in ordered if name not in history]
    assert listed(7) == fresh[:7]
    assert listed(500) == fresh
    assert listed(7, exclude_history=False) == ordered[:7]
    assert listed(3, exclude=fresh[:2]) == fresh[2:5]
    some = [*fresh[5:9], history[0], "new"]
    assert listed(9, candidates=some) == fresh[5:9]
    assert ranker.recommend(history, candidates=some, user="u3").unknown_candidates == 1
    assert ranker.recommend(history, exclude=["new"], user="u3").unknown_candidates == 1
    assert listed(2, candidates=[]) == []


@pytest.mark.long
def test_lists_with_the_history_say_once_if_no_negative_was_in_one(wide_run, monkeypatch, capsys):
    trained = load_run(wide_run)
    monkeypatch.setitem(trained.dataset.meta, "split", {"allow_own_negatives": False})
    ranker = Ranker(trained)
    ranker.recommend(["i9"], 3)
    assert "too high" not in capsys.readouterr().err
    for _ in range(2):
        ranker.recommend(["i9"], 3, exclude_history=False)
    assert capsys.readouterr().err.count("too high") == 1


@pytest.mark.long
@pytest.mark.parametrize("exact_items", [512, 1])
def test_many_users_get_the_lists_of_each_alone_of_their_whole_histories(
    exact_items, wide_run, monkeypatch
) -> None:
    monkeypatch.setattr("dien_jax.inference.shortlist.KEPT", 45)  # the tower leaves few out
    ranker = Ranker(wide_run, exact_items=exact_items)
    names = load_run(wide_run).dataset.vocabulary("item")[1:]
    histories = [names[user % 50 : user % 50 + user % 9] for user in range(USERS_AT_ONCE + 3)]
    histories[0] = names[:40]  # longer than what the model keeps
    users = [f"u{user}" for user in range(len(histories))]
    recommend_many = inspect.unwrap(Ranker.recommend_many)  # arrays pass where no types are checked
    together = recommend_many(ranker, histories, 5, users=np.array(users))
    for history, user, found in zip(histories, users, together, strict=True):
        alone = ranker.recommend(history, 5, user=user)
        assert found.ids == alone.ids
        assert not {*history} & {*found.ids}
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4)
    ranker.remember("Ann", histories[4])
    assert ranker.recommend(None, 5, user="Ann").ids == ranker.recommend(histories[4], 5).ids
    assert ranker.recommend_many([]) == []
    with pytest.raises(UserError, match="users must have one entry per history, 1, got 2"):
        ranker.recommend_many([names[:2]], users=["Ann", "Bob"])


@pytest.mark.long
def test_lists_of_many_users_compile_two_programs_for_each_length(wide_run, monkeypatch) -> None:
    monkeypatch.setattr("dien_jax.inference.shortlist.KEPT", 16)
    make_programs.cache_clear()
    ranker = Ranker(wide_run, exact_items=1)
    ranker._programs.buckets = (4, *ranker._programs.buckets)
    histories = [["i9"], ["i9"] * 5] * 2 * USERS_AT_ONCE  # threads make those of one length
    COMPILED.clear()
    ranker.recommend_many(histories, 2)
    assert len(COMPILED) == 4
    ranker.recommend_many(histories[: USERS_AT_ONCE + 1], 1)  # of fewer, and shorter lists
    assert len(COMPILED) == 4
    ranker.recommend_many(histories[:2], 2)  # few users wait for no others
    assert len(COMPILED) == 4 + 6


@pytest.mark.long
def test_two_stages_give_the_exact_list_where_candidates_suffice(wide_run) -> None:
    exact, staged = Ranker(wide_run), Ranker(wide_run, exact_items=1)
    for history in ([], ["i9"], ["i40", "?", "i41"]):
        found, expected = staged.recommend(history), exact.recommend(history)
        assert found.ids == expected.ids
    shortlist, allowed = staged._lists.shortlist, np.ones(60, bool)
    (estimates,) = shortlist.estimates([np.int32([9, 1])])
    few = shortlist.rows(estimates, allowed, 8)
    assert len(few) == 8
    values = np.arange(60) % 4
    limited = shortlist.rows(estimates, allowed, 60, [(values, 2)])
    assert np.bincount(values[limited]).tolist() == [15, 2, 2, 2]  # unknown ones are not limited


def test_one_event_that_suggests_an_item_strongly_counts_however_old_it_is() -> None:
    """Item 1 is paired with 3 in most of its events; 2, the latest event, now and then with 4."""
    count, pairs = np.array([0, 3, 400, 4, 90]), {(1, 3): 3, (1, 2): 1, (2, 4): 5, (2, 1): 1}
    tables = {"params/tower/item_weights/item": np.zeros((5, 1), np.float32)}
    columns = np.searchsorted([row for row, _ in pairs], range(6)), [o for _, o in pairs]
    for name, values in zip(("offsets", "other"), columns, strict=True):
        tables[f"tables/statistics/item/{name}"] = np.array(values)
    tables["tables/statistics/item/together"] = np.float32([*pairs.values()])
    tables["tables/statistics/item/count"] = count
    history, expected = [1, *[2] * 9], []
    weights = 1 / np.arange(len(history), 0, -1)
    for item, users in enumerate(count + 1.0):
        of_events = [pairs.get((row, item), 0) / np.sqrt(count[row] + 1) for row in history]
        lift = max(pairs.get((row, item), 0) / (count[row] + 1) for row in history)
        together = 4 * np.sqrt(weights @ of_events / np.sqrt(users))
        expected.append(together + 0.15 * np.log1p(5 * lift / users))
    (found,) = Shortlist(tables, "item", ()).estimates([np.int32(history)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.argmax() == 3  # without the second term it would be 4


@pytest.mark.long
def test_an_empty_history_gives_the_most_popular_of_all_items(wide_run, monkeypatch) -> None:
    monkeypatch.setattr("dien_jax.inference.shortlist.SHORTLIST", 12)
    trained = load_run(wide_run)
    for shift in range(0, 59, 7):
        offsets = np.float32([-np.inf, *np.log1p(np.roll(np.arange(59), shift))])
        ranker = Ranker(trained._replace(list_offsets=offsets), exact_items=1)
        best = ranker.vocabularies.items[int(offsets.argmax())]
        assert ranker.recommend([], 1).ids == [best]


@pytest.mark.long
def test_scores_take_the_logits_of_the_tower_which_must_be_finite(wide_run, monkeypatch) -> None:
    monkeypatch.setattr("dien_jax.inference.shortlist.KEPT", 16)
    ranker, known = Ranker(wide_run, exact_items=1), np.linspace(3, -3, 60, dtype=np.float32)
    tower, plain = ranker._programs.tower, Ranker(wide_run).recommend(["i9"], 60)

    def changed(many, **how) -> list[np.ndarray]:
        pairs = zip(many, tower(many, **how), strict=True)
        return [known[one.candidates] + logits for one, logits in pairs]

    monkeypatch.setattr(ranker._programs, "tower", changed)
    found, scores = ranker.recommend(["i9"], 2), dict(zip(plain.ids, plain.scores, strict=True))
    expected = known[ranker.vocabularies.item_rows(found.ids)]
    expected = expected + [scores[name] for name in found.ids]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    known[:] = np.nan
    with pytest.raises(UserError, match=r"score of candidate 'i\d+' is nan"):
        ranker.recommend(["i9"], 2)


def test_the_tower_leaves_a_longer_list_within_wider_limits(monkeypatch) -> None:
    made = lists(np.zeros(400), category=np.repeat([1, 2], 200))
    rows, logits = np.arange(1, 400, dtype=np.int32), np.linspace(9, 0, 399, dtype=np.float32)

    def kept(of: ListOptions) -> list[int]:
        return made.kept(rows, logits, stage_sizes(of.n, 400)[1], of).tolist()

    assert kept(options(2)) == list(range(128))
    assert kept(options(20)) == list(range(160))
    assert kept(options(2, at_most={"category": 1})) == [*range(64), *range(199, 263)]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as where it is used
    small = made.options(np.int8(20), at_most={"category": np.int8(20)})
    assert kept(small) == list(range(160))


@pytest.mark.long
def test_large_catalogues_have_larger_stages(wide_run, monkeypatch) -> None:
    monkeypatch.setattr("dien_jax.inference.shortlist.SHORTLIST", 12)
    made = Ranker(wide_run, exact_items=1)._lists

    def found() -> int:
        return len(made.candidates(options(1), [np.arange(1, 9)], [np.arange(1, 9)])[0])

    assert found() == 12
    monkeypatch.setattr("dien_jax.inference.shortlist.MANY_ITEMS", 50)
    assert found() == 48


@pytest.mark.long
def test_a_run_without_offsets_ranks_and_says_what_lists_need(wide_run) -> None:
    trained = load_run(wide_run)._replace(list_offsets=None)
    with pytest.raises(UserError, match=re.escape(OFFSETS_FILE)):
        Ranker(trained).recommend([])
