"""A run of an ensemble is stopped, resumed, evaluated and started from as any other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support import tiny_run
from support.grown_data import write_grown

import dien_jax
from dien_jax import train
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted, UserError
from dien_jax.model.ensemble import split_networks
from dien_jax.runs.folder import Run
from dien_jax.runs.saved_arrays import named_leaves
from dien_jax.runs.trained import load_run
from dien_jax.steps.state import create_state
from dien_jax.training.warm_start import grown, load_source


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*tiny_run.light_flags(data, folder), "--model.ensemble=2"]) == 0
    return folder


def test_a_resumed_run_ends_as_one_never_stopped(data, run, tmp_path) -> None:
    asked, config = iter([None] * 6), Run.load(run).config
    with pytest.raises(Interrupted):
        dien_jax.fit(
            config, data=data, run_dir=tmp_path / "run", stop_signal=lambda: next(asked, 15)
        )
    dien_jax.resume(tmp_path / "run")
    ours, theirs = (tiny_run.saved_states(folder)["latest"] for folder in (tmp_path / "run", run))
    assert ours[0] == theirs[0] == tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS
    assert tiny_run.bits(ours[1]) == tiny_run.bits(theirs[1])


def test_evaluation_and_ranker_score_as_training_did(run) -> None:
    scores = dien_jax.score_split(run, "test").scores
    dataset, result = open_dataset(Run.load(run).data), tiny_run.evaluations(run)
    assert len({record["valid"]["auc"] for record in result}) > 1
    examples, ranker = dataset.splits["test"], dien_jax.Ranker(run)
    items = dataset.vocabulary("item")
    for number in range(3):
        start = dataset.event_offsets[examples.sequence[number]]
        history = dataset.event_item[start : examples.history_end[number]]
        ranking = ranker.rank([items[row] for row in history], [items[examples.item[number]]])
        # Programs of one row and of a batch differ in the order of sums.
        np.testing.assert_allclose(ranking.scores[0], scores[number], rtol=2e-5)


def test_a_warm_start_grows_every_network_as_it_would_grow_alone(run, data, tmp_path) -> None:
    new = open_dataset(write_grown(tmp_path / "new", open_dataset(data)))
    config = Run.load(run).config
    source = load_source(run, new, config)
    fresh = create_state(config, new.schema, tiny_run.STEPS_PER_EPOCH, 5)
    found = grown(source, new, fresh)
    assert found.keeps_optimizer
    before, after, of_fresh = (
        split_networks(2, (state.params, state.optimizer_state))
        for state in (source.state, found.state, fresh)
    )
    for trained, slots, got in zip(before, of_fresh, after, strict=True):
        state = source.state._replace(params=trained[0], optimizer_state=trained[1])
        single = fresh._replace(params=slots[0], optimizer_state=slots[1])
        alone = grown(source._replace(state=state, ensemble=1), new, single).state
        expected = named_leaves((alone.params, alone.optimizer_state))
        for name, leaf in named_leaves(got).items():
            np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_a_warm_start_trains_every_network(run, data, tmp_path) -> None:
    new, warm = write_grown(tmp_path / "new", open_dataset(data)), tmp_path / "warm"
    more = ["--model.ensemble=2", "--train.epochs=1", "--warm-start", str(run)]
    assert train.main([*tiny_run.light_flags(new, warm), *more]) == 0
    first, second = load_run(warm).params["mlp"]["logit"]["kernel"]
    assert (np.asarray(first) != np.asarray(second)).any()


def test_a_warm_start_needs_as_many_networks(run, data) -> None:
    config = Run.load(run).config
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, ensemble=3))
    with pytest.raises(UserError, match=r"model\.ensemble must be 2, as in the run, got 3"):
        load_source(run, open_dataset(data), other)
