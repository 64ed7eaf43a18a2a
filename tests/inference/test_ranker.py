"""Ranking: scores of an evaluation, raw ids, remembered users, few compilations."""

import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import untrained_run
from support.compilations import COMPILED
from support.programs import forked, printed
from support.small_dataset import CONTEXT, ODD, PEAR, SLASH
from support.untrained_run import TOLERANCE

import dien_jax
from dien_jax.errors import UserError
from dien_jax.inference.bucketed_programs import (
    CANDIDATE_BUCKETS,
    RankRequest,
    candidate_slices,
    slice_size,
)
from dien_jax.inference.loaded_model import history_buckets
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER
from dien_jax.runs.trained import load_run
from dien_jax.steps.rank import make_programs

pytestmark = pytest.mark.long

NO_COUNTS = {"statistics": False}
"""They take most of the time of a compilation."""
AUTHORS = {"follow_authors": True, "gates": "authors"}


def test_scores_that_are_not_finite_are_refused(run):
    trained = load_run(run)
    params = jax.tree.map(lambda leaf: leaf * np.float32(1e30), trained.params)
    overflowing = dien_jax.Ranker(trained._replace(params=params))
    with pytest.raises(UserError, match=re.escape(f"score of candidate {PEAR!r} is nan")):
        overflowing.rank([PEAR], [PEAR], request_features=CONTEXT)


IN_A_FORK = {
    "rank": lambda ranker, run, file: ranker.rank([PEAR], [PEAR], request_features=CONTEXT),
    "adopt": lambda ranker, run, file: ranker.adopt(ranker),
    "remembered": lambda ranker, run, file: ranker.rank(None, [PEAR], "Ann", CONTEXT),
    "a run": lambda ranker, run, file: dien_jax.Ranker(run),
    "a file": lambda ranker, run, file: dien_jax.Ranker(file),
    "a loaded run": lambda ranker, run, file: dien_jax.score_split(run, "train"),
}


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("name", IN_A_FORK)
def test_a_forked_process_is_refused_at_once(name, ranker, run, exported):
    """JAX's threads do not survive a fork: a call would wait for ever."""
    trained = load_run(run) if name == "a loaded run" else run
    ranker.remember("Ann", [PEAR])
    ranker.rank([PEAR], [PEAR], request_features=CONTEXT)
    with ranker._users._lock:  # as another thread of this process may hold it
        found = forked(lambda: IN_A_FORK[name](ranker, trained, exported))
    assert re.match(r"UserError: process \d+ was forked from process \d+, without", found)


IMPORTED_LATE = """
import os, signal, sys, warnings, jax
warnings.simplefilter("ignore")
exec(sys.argv[1])
jax.block_until_ready(jax.numpy.ones(300) + 1)
child = os.fork()
if not child:
    signal.alarm(60)
    import dien_jax
    try:
        dien_jax.Ranker(sys.argv[2])
    except dien_jax.UserError as error:
        os._exit(7 * ("was forked from" in str(error)))
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are seen in /proc")
@pytest.mark.parametrize("before", ["import dien_jax", ""])
def test_a_fork_is_noticed_before_the_package_is_used(before, run):
    assert printed(IMPORTED_LATE, before, str(run)).split() == ["7"]


def test_checkpoint_with_a_parameter_that_is_not_finite_is_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    trained = load_run(run)
    state = untrained_run.random_state(trained.run.config, trained.dataset.schema)
    state.params["mlp"]["logit"]["bias"] = jnp.float32([np.nan])
    Checkpoints(folder / CHECKPOINTS_FOLDER).save(2, state, {}, best=True)
    with pytest.raises(UserError, match="is damaged: params/mlp/logit/bias is not finite"):
        load_run(folder)


def same(found, expected) -> None:
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.scores, expected.scores, **TOLERANCE)


def test_scores_are_those_of_an_evaluation(run, data, tmp_path) -> None:
    """`tests/steps/test_rank.py` has the other members of the family."""
    authors = AUTHORS | {"attention": "bilinear", "activation": "prelu"}
    runs = [run]
    for model, changes in (("base_model", NO_COUNTS), ("dien", NO_COUNTS | authors)):
        folder = tmp_path / model
        runs.append(untrained_run.write(folder, data, model=model, buckets=(), **changes))
    for each in runs:
        assert np.ptp(untrained_run.check_ranking(load_run(each), "train")) > 1e-3


def test_candidates_come_back_sorted_each_with_its_score(ranker) -> None:
    candidates = [PEAR, SLASH, ODD, "new", PEAR]
    ranking = ranker.rank([PEAR, ODD], candidates, "Ann", CONTEXT)
    assert sorted(ranking.ids) == sorted(candidates)
    assert (np.diff(ranking.scores) <= 0).all()
    assert ranking.scores.dtype == np.float32
    alone = {one: ranker.rank([PEAR, ODD], [one], "Ann", CONTEXT).scores[0] for one in candidates}
    assert len(set(alone.values())) == 4
    np.testing.assert_allclose(ranking.scores, [alone[one] for one in ranking.ids], **TOLERANCE)
    assert ranker.rank([PEAR], [], "Ann", CONTEXT).ids == []
    table = ranking.to_pandas()
    assert list(table.columns) == ["rank", "item", "score"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["item"].tolist() == ranking.ids
    assert table["score"].tolist() == ranking.scores.tolist()


def test_candidates_of_several_slices_score_as_in_one(ranker) -> None:
    few = ranker.rank([ODD], [PEAR, SLASH, ODD], request_features=CONTEXT)
    for times in (50, 200):  # small slices alone, and with a large one
        ranking = ranker.rank([ODD], [PEAR, SLASH, ODD] * times, request_features=CONTEXT)
        assert ranking.ids == [one for one in few.ids for _ in range(times)]
        np.testing.assert_allclose(ranking.scores[::times], few.scores, **TOLERANCE)


def test_slices_are_as_few_as_can_be_where_scores_depend_on_other_candidates() -> None:
    for follow_authors, sizes in ((False, [64, 64, 512]), (True, [64, 512, 512])):
        slices = candidate_slices(follow_authors=follow_authors)
        assert [slice_size(slices, count) for count in (64, 256, 600)] == sizes


def test_unknown_ids_take_the_unknown_row_and_are_counted(ranker) -> None:
    context = {"device": "fridge", "query": "q|?"}
    ranking = ranker.rank(["?", PEAR, "!"], [PEAR, "?", 17], "Zoe", context)
    assert (ranking.unknown_history, ranking.unknown_candidates) == (2, 2)
    assert ranking.unknown_values == 2
    score = dict(zip(ranking.ids, ranking.scores, strict=True))
    assert score["?"] == score["17"] != score[PEAR]
    blank = {"device": None, "query": "?|q"}
    same(ranker.rank(["", PEAR, "x"], [PEAR, "?", 17], None, blank), ranking)


def test_long_histories_keep_the_latest_events(ranker) -> None:
    long = [SLASH, "?", ODD, PEAR, PEAR, ODD, SLASH, PEAR]
    kept = ranker.rank(long, [PEAR, ODD], request_features=CONTEXT)
    same(kept, ranker.rank(long[2:], [PEAR, ODD], request_features=CONTEXT))
    assert kept.unknown_history == 0
    shorter = ranker.rank(long[3:], [PEAR, ODD], request_features=CONTEXT)
    assert not np.allclose(kept.scores, shorter.scores, rtol=1e-3)


def test_remembered_users_score_as_their_history_given_whole(run) -> None:
    """The warm-up below has users of a model without recurrence."""
    ranker = Ranker(run)
    events, candidates = [PEAR, ODD, "?", SLASH, ODD, PEAR, SLASH, ODD, PEAR], [PEAR, SLASH, ODD]
    ranker.remember("Ann", [])
    for count, event in enumerate(events, start=1):  # past every bucket, then past max_history
        ranker.observe("Ann", event)
        found = ranker.rank(None, candidates, "Ann", CONTEXT)
        expected = ranker.rank(events[:count], candidates, "Ann", CONTEXT)
        same(found, expected)
        assert found.unknown_history == expected.unknown_history
    ranker.observe("Ann", ODD)  # twice between two rankings
    ranker.observe("Ann", SLASH)
    expected = ranker.rank([*events, ODD, SLASH], candidates, "Ann", CONTEXT)
    same(ranker.rank(None, candidates, "Ann", CONTEXT), expected)


def test_an_event_within_max_history_is_one_step(ranker, monkeypatch) -> None:
    ranker.remember("Cid", [PEAR, ODD])
    expected = ranker.rank([PEAR, ODD, SLASH], [PEAR], "Cid", CONTEXT)
    programs = ranker._programs
    monkeypatch.setattr(programs, "_programs", programs.programs._replace(read=None))
    ranker.observe("Cid", SLASH)
    same(ranker.rank(None, [PEAR], "Cid", CONTEXT), expected)


def test_least_recently_used_users_are_forgotten(run) -> None:
    ranker = Ranker(run, max_users=2)
    for user in ("Ann", "Bob"):
        ranker.remember(user, [PEAR])
    ranker.rank(None, [PEAR], "Ann", CONTEXT)
    ranker.remember("Cid", [PEAR])
    assert [user in ranker for user in ("Ann", "Bob", "Cid")] == [True, False, True]
    ranker.observe("Ann", ODD)
    ranker.remember("Dan", [PEAR])
    assert [user in ranker for user in ("Ann", "Cid", "Dan")] == [True, False, True]
    with pytest.raises(
        UserError, match="'Cid' is not remembered; give the history, the user's items"
    ):
        ranker.observe("Cid", PEAR)
    with pytest.raises(ValueError, match="max_users must be at least 1, got 0"):
        Ranker(run, max_users=0)


def test_users_ranked_together_score_as_each_alone(run) -> None:
    ranker = Ranker(run)
    ranker.remember("Ann", [PEAR, ODD])
    ranker.remember("Bob", [SLASH] * 6)
    ranker.observe("Bob", PEAR)  # past max_history: to be read anew, together with the others
    desk, phone = CONTEXT, {"device": "phone", "query": None}
    requests = [
        RankRequest([PEAR, ODD], [PEAR, SLASH], "Ann", desk),
        RankRequest([], [ODD] * 3, None, phone),
        RankRequest(None, [SLASH, "?"], "Ann", phone),
        RankRequest(None, [ODD], "Bob", desk),
        RankRequest([SLASH] * 4, [PEAR, ODD, SLASH] * 200, "Bob", desk),
        RankRequest(None, [ODD], "Eve", desk),
        RankRequest([ODD], [SLASH, PEAR], "Bob", desk),
        RankRequest(["?", SLASH], [], "Bob", desk),
        RankRequest([SLASH, ODD], [ODD, PEAR], "Bob", phone),
        RankRequest([PEAR], [ODD], "Ann", {"device": "desk"}),
        RankRequest([PEAR, SLASH] * 3, [ODD, PEAR], "Ann", phone),
        *[RankRequest([SLASH, ODD] * steps, [PEAR], "Bob", phone) for steps in (2, 2, 3, 3)],
    ]
    outcomes = ranker.rank_many(requests)
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, UserError):
            with pytest.raises(UserError) as alone:
                ranker.rank(*request)
            assert str(outcome) == str(alone.value)
        else:
            expected = ranker.rank(*request)
            same(outcome, expected)
            assert outcome[2:] == expected[2:]
    assert [isinstance(outcome, UserError) for outcome in outcomes].index(True) == 5
    assert "value of 'query'" in str(outcomes[9])
    assert ranker.rank_many([]) == []


def test_a_newer_model_adopts_remembered_users(run) -> None:
    older, newer = Ranker(run, max_users=3), Ranker(run, max_users=2)
    assert repr(older) == f"Ranker(checkpoint {older.step}, {older.schema.num_items - 1} items)"
    for user, history in (("Ann", [PEAR]), ("Bob", [ODD] * 9), ("Cid", ["?", SLASH])):
        older.remember(user, history)
    older.rank(None, [PEAR], "Bob", CONTEXT)
    newer.remember("Eve", [])
    newer.adopt(older)
    assert [user in newer for user in ("Ann", "Bob", "Cid", "Eve")] == [False, True, True, False]
    assert (older.remembered_users, newer.remembered_users) == (3, 2)
    newer.observe("Cid", PEAR)
    same(
        newer.rank(None, [PEAR, ODD], "Cid", CONTEXT),
        newer.rank(["?", SLASH, PEAR], [PEAR, ODD], "Cid", CONTEXT),
    )
    newer.vocabularies.items[1:3] = [SLASH, PEAR]  # other rows for the same raw ids
    newer.vocabularies._item_rows |= {SLASH: 1, PEAR: 2}
    newer.adopt(older)
    assert newer._users.histories["Cid"].rows.tolist() == [0, 1]
    newer.remember("Dan", [])
    assert [user in newer for user in ("Bob", "Cid", "Dan")] == [True, False, True]


def test_lengths_of_histories_are_few_or_all_where_scores_depend_on_the_padding() -> None:
    for changes, lengths in (({}, (2, 6)), ({"follow_authors": True}, (2, 3, 4, 6))):
        assert history_buckets(untrained_run.config_of("dien", (2, 3, 4, 9), **changes)) == lengths


@pytest.mark.parametrize("follow_authors", [False, True])
def test_nothing_is_compiled_once_a_warm_up_is_ready(follow_authors, data, tmp_path) -> None:
    changes = {**NO_COUNTS, "follow_authors": follow_authors}
    run = untrained_run.write(tmp_path / "run", data, model="din", buckets=(2,), **changes)
    make_programs.cache_clear()  # which rankers of one model share
    ranker, found, compiled = Ranker(run), [], len(COMPILED)
    candidates = [ODD, SLASH]

    def ready() -> None:
        lengths = 2 if follow_authors else 1  # scores depend on the padding
        assert len(COMPILED) - compiled == lengths * (2 + len(CANDIDATE_BUCKETS))
        before = len(COMPILED)
        found.append(ranker.rank([PEAR], candidates, "Ann", CONTEXT))
        for user in ("Bob", "Cid"):
            ranker.remember(user, [PEAR])
        ranker.observe("Cid", ODD)
        assert len(COMPILED) == before

    ranker.warm_up(ready=ready)
    before = len(COMPILED)
    assert before - compiled == 2 * (2 + len(CANDIDATE_BUCKETS))
    same(ranker.rank([PEAR], candidates, "Ann", CONTEXT), found[0])
    expected = ranker.rank([PEAR], candidates, "Bob", CONTEXT)
    same(ranker.rank(None, candidates, "Bob", CONTEXT), expected)
    ranker.observe("Bob", ODD)
    for user in ("Bob", "Cid"):
        expected = ranker.rank([PEAR, ODD], candidates, user, CONTEXT)
        same(ranker.rank(None, candidates, user, CONTEXT), expected)
    for length in range(9):
        for size in (1, *CANDIDATE_BUCKETS, 130, 1300):
            ranker.rank([PEAR] * length, [ODD] * size, "Ann", CONTEXT)
    ranker.remember("Ann", [])
    for _ in range(9):
        ranker.observe("Ann", PEAR)
        ranker.rank(None, [ODD], "Ann", CONTEXT)
    for users in range(6):
        ranker.rank_many([RankRequest([ODD] * users, [PEAR] * 3, None, CONTEXT)] * users)
        ranker.rank_many([RankRequest(None, [PEAR], "Ann", CONTEXT)] * users)
        ranker.observe("Ann", PEAR)
    Ranker(run).warm_up()
    assert len(COMPILED) == before
