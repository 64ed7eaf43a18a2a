"""Training from where another run ended: rows follow their ids, and nothing fits by accident."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tiny_run

from dien_jax import loop, train
from dien_jax.config import Config, ModelConfig
from dien_jax.dataset import Dataset, open_dataset
from dien_jax.dataset_writer import DatasetWriter
from dien_jax.errors import UserError
from dien_jax.evaluate import evaluation_loader, predict
from dien_jax.run_folder import Run, read_json
from dien_jax.schema import Feature, Schema
from dien_jax.step import create_state, device_tables, make_predict_step
from dien_jax.trained import load_trained
from dien_jax.warm_start import (
    NEW,
    _check_features,
    grown,
    grown_table,
    load_warm_start,
    trained_rows,
)

NEW_ITEMS = {"n1": "y", "n2": "brand new"}
"""Items that only the grown folder has, and their categories."""
GONE = "i4"
"""An item that only the first folder has."""


def write_grown(path: Path, before: Dataset) -> Path:
    """The tiny data under vocabularies in another order, with some values more and one less."""
    rng = np.random.default_rng(1)
    vocabularies, rows = {}, {}
    more = {"item": list(NEW_ITEMS), "category": ["brand new"], "user": ["v1", "v2"]}
    for name, added in more.items():
        known = before.vocabulary(name)
        kept = [value for value in known[1:] if value != GONE]
        vocabularies[name] = ["", *rng.permutation([*kept, *added]).tolist()]
        places = {value: row for row, value in enumerate(vocabularies[name])}
        rows[name] = np.array([places.get(value, 0) for value in known])
    features = {
        name: Feature(name, "categorical", size=len(values))
        for name, values in vocabularies.items()
    }
    schema = Schema((features["item"], features["category"]), (features["user"],))
    of_item = dict(zip(before.vocabulary("item"), before.items["category"].values, strict=True))
    categories = {
        item: before.vocabulary("category")[value] for item, value in of_item.items()
    } | NEW_ITEMS
    places = {value: row for row, value in enumerate(vocabularies["category"])}
    with DatasetWriter(
        path, schema=schema, source={"name": "tiny", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        for name, values in vocabularies.items():
            writer.vocabulary(name, values)
        writer.items("category", [places[categories[item]] for item in vocabularies["item"]])
        writer.groups(before.groups())
        writer.events(rows["item"][before.event_item], before.event_timestamp, before.event_offsets)
        popularity = np.zeros(len(vocabularies["item"]), np.int64)
        np.add.at(popularity, rows["item"], before.popularity)
        writer.popularity(popularity)
        for split, examples in before.splits.items():
            writer.examples(
                split,
                sequence=examples.sequence,
                history_end=examples.history_end,
                user=rows["user"][examples.user],
                group=examples.group,
                item=rows["item"][examples.item],
                label=examples.label,
            )
    return path


class Tiny(NamedTuple):
    """Two folders, a run on the first, and one on the second that started from it."""

    old: Dataset
    new: Dataset
    run: Path
    warm: Path


def flags(data: Path, folder: Path, start: Path) -> list[str]:
    return [*tiny_run.flags(data, folder), "--train.epochs=1", "--warm-start", str(start)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    with tiny_run.compilation_cache():
        old = open_dataset(tiny_run.write_data(folder / "old"))
        new = open_dataset(write_grown(folder / "new", old))
        run, warm = folder / "run", folder / "warm"
        arguments = [*tiny_run.flags(old.path, run), "--train.epochs=2"]
        assert train.main([*arguments, "--model.batch-norm=running"]) == 0
        assert train.main([*flags(new.path, warm, run), "--model.batch-norm=running"]) == 0
        yield Tiny(old, new, run, warm)


def scores(params: Any, batch_stats: Any, dataset: Dataset, config: Config) -> np.ndarray:
    """Of the training split, whose users are known."""
    return predict(
        make_predict_step(config, dataset.schema),
        params,
        batch_stats,
        device_tables(dataset, config),
        evaluation_loader(dataset, "train", config),
    )


# Rows


def test_rows_are_told_by_value_and_the_unknown_row_stays():
    rows = trained_rows(["", "a", "b", "c"], ["", "c", "x", "a"])
    assert rows.tolist() == [0, 3, NEW, 1]
    assert trained_rows(["?", "a"], ["", "?", "a"]).tolist() == [0, NEW, 1]


def test_a_new_row_starts_from_its_kind_or_from_all():
    table = np.array([[9, 9], [1, 0], [3, 0], [0, 6]], np.float32)
    source = np.array([0, 3, 1, NEW, 2, NEW, NEW])
    kinds = np.array([0, 2, 1, 1, 1, 0, 3])
    found = grown_table(table, source, kinds)
    assert found[[0, 1, 2, 4]].tolist() == table[[0, 3, 1, 2]].tolist()
    assert found[3].tolist() == [2, 0], "the mean of the two of its kind"
    mean = pytest.approx([4 / 3, 2])
    assert found[5].tolist() == mean, "its kind is unknown"
    assert found[6].tolist() == mean, "no trained row is of its kind"
    assert grown_table(table, source, None)[3].tolist() == mean
    only_unknown = grown_table(table, np.array([0, NEW]), None)
    assert only_unknown.tolist() == [[9, 9], [9, 9]]


def test_parameters_and_statistics_go_over_and_rows_follow_their_ids(tiny):
    trained = load_trained(tiny.run)
    found = grown(trained, tiny.new)
    assert found.new_rows == {"item": 2, "category": 1, "user": 2}
    for group, name in (("item", "item"), ("item", "category"), ("user", "user")):
        before = dict(
            zip(tiny.old.vocabulary(name), trained.params[f"{group}_embeddings"][name], strict=True)
        )
        now = dict(
            zip(tiny.new.vocabulary(name), found.params[f"{group}_embeddings"][name], strict=True)
        )
        for value in set(before) & set(now):
            assert now[value].tobytes() == np.asarray(before[value]).tobytes()
        if name == "user":
            assert now["v1"].tobytes() == now["v2"].tobytes() == now[""].tobytes()
        if name == "item":
            alike = [
                before[item]
                for item, kind in zip(
                    tiny.old.vocabulary("item"), tiny.old.items["category"].values, strict=True
                )
                if tiny.old.vocabulary("category")[kind] == "y" and item in now
            ]
            assert now["n1"] == pytest.approx(np.mean(alike, axis=0), rel=1e-5)
    rest = {"item_embeddings", "user_embeddings"}
    for name in set(trained.params) - rest:
        for ours, theirs in zip(
            jax.tree.leaves(found.params[name]), jax.tree.leaves(trained.params[name]), strict=True
        ):
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    statistics = jax.tree.leaves(found.batch_stats)
    assert len(statistics) >= 4  # BatchNorm and Dice
    for ours, theirs in zip(statistics, jax.tree.leaves(trained.batch_stats), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_before_training_scores_are_those_of_the_run(tiny):
    trained = load_trained(tiny.run)
    config = trained.run.config
    found = grown(trained, tiny.new)
    before = scores(trained.params, trained.batch_stats, tiny.old, config)
    after = scores(found.params, found.batch_stats, tiny.new, config)
    gone = tiny.old.vocabulary("item").index(GONE)
    starts, examples = tiny.old.event_offsets, tiny.old.splits["train"]
    knows_all = np.array(
        [
            gone not in [item, *tiny.old.event_item[starts[sequence] : end]]
            for item, sequence, end in zip(
                examples.item, examples.sequence, examples.history_end, strict=True
            )
        ]
    )
    assert knows_all.sum() > 20
    assert (~knows_all).any()
    assert after[knows_all] == pytest.approx(before[knows_all], abs=1e-6)


# The run


def test_the_run_tells_what_it_started_from_and_trains(tiny):
    told = Run.load(tiny.warm).warm_start
    assert told == {"run": str(tiny.run), "step": load_trained(tiny.run).step}
    assert Run.load(tiny.run).warm_start is None
    result = read_json(tiny.warm / "result.json")
    assert result["steps"] == tiny_run.STEPS_PER_EPOCH
    start = grown(load_trained(tiny.run), tiny.new).params
    ended = load_trained(tiny.warm).params
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), start, ended)
    assert 0 < max(jax.tree.leaves(moved)) < 0.2, "four steps of Adam at 0.02 from the start"


def test_settings_of_the_run_are_the_defaults_unless_a_preset_is_named(tiny):
    of_run = train.parse(["--warm-start", str(tiny.run)])
    assert of_run.model == Run.load(tiny.run).config.model
    assert of_run.train.batch_size == 16
    named = train.parse(["din", f"--warm-start={tiny.run}"])
    assert named.model.hidden_size == ModelConfig().hidden_size
    assert named.warm_start == tiny.run


def state_of(folder: Path, dataset: Dataset):
    """The latest checkpoint of a run on the grown data."""
    run = Run.load(folder)
    like = create_state(run.config, dataset.schema, tiny_run.STEPS_PER_EPOCH, run.seed)
    checkpoints = loop.Checkpoints(folder / "checkpoints", read_only=True)
    step = checkpoints.latest_step()
    assert step is not None
    return step, checkpoints.restore(step, like)[0]


@pytest.mark.parametrize("update", ["dense", "rowwise_adagrad"])
def test_a_run_killed_in_its_first_steps_resumes_without_the_other_run(
    tiny, tmp_path, monkeypatch, update
):
    monkeypatch.setattr("dien_jax.embedding_rows.DENSE_ROWS", 0)
    start, folder = tmp_path / "start", tmp_path / "run"
    shutil.copytree(tiny.run, start)
    more = ["--model.batch-norm=running", f"--optim.embedding-update={update}"]
    make = loop.make_train_step

    def dies(*arguments):
        step, taken = make(*arguments), []

        def counted(*of_step):
            taken.append(1)
            if len(taken) == 3:
                raise KeyboardInterrupt
            return step(*of_step)

        return counted

    with tiny_run.compilation_cache():
        with monkeypatch.context() as patch:
            patch.setattr(loop, "make_train_step", dies)
            assert train.main([*flags(tiny.new.path, folder, start), *more]) == 130
        step, state = state_of(folder, tiny.new)
        assert step == 0
        expected = grown(load_trained(start), tiny.new)
        for ours, theirs in zip(
            jax.tree.leaves((state.params, state.batch_stats)),
            jax.tree.leaves((expected.params, expected.batch_stats)),
            strict=True,
        ):
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer_state))
        shutil.rmtree(start)
        assert train.main(["--resume", str(folder)]) == 0
        step, state = state_of(folder, tiny.new)
        assert step == tiny_run.STEPS_PER_EPOCH
        if update == "dense":
            assert tiny_run.bits(state) == tiny_run.bits(state_of(tiny.warm, tiny.new)[1])


def test_a_run_killed_before_it_has_the_parameters_looks_for_them_again(
    tiny, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    arguments = [*flags(tiny.new.path, folder, tiny.run), "--model.batch-norm=running"]

    def dies(*arguments):
        raise KeyboardInterrupt

    with tiny_run.compilation_cache():
        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "start_from", dies)
            assert train.main(arguments) == 130
        again = tmp_path / "again"
        shutil.copytree(folder, again)
        assert train.main(["--resume", str(folder)]) == 0
        ours, theirs = state_of(folder, tiny.new)[1], state_of(tiny.warm, tiny.new)[1]
        assert tiny_run.bits(ours) == tiny_run.bits(theirs)
        capfd.readouterr()
        text = (again / "config.json").read_text()
        (again / "config.json").write_text(text.replace('"step": ', '"step": 9'))
        assert train.main(["--resume", str(again)]) == 2
    assert "began from its checkpoint of step 9" in capfd.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embedding_size": 5}, "model.embedding_size must be that of the run, 4, got 5"),
        ({"form": "authors"}, "model.form must be that of the run, 'paper', got 'authors'"),
        ({"layers": (8, 4)}, "model.layers must be that of the run, (8,), got (8, 4)"),
        ({"auxiliary_weight": 0.0}, "model.auxiliary_weight must be above 0, as in the run (1)"),
    ],
)
def test_a_model_that_differs_is_refused_by_its_setting(tiny, changes, expected):
    config = Run.load(tiny.run).config
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    with pytest.raises(UserError) as refused:
        load_warm_start(tiny.run, tiny.new, changed)
    assert str(refused.value).startswith(f"--warm-start {tiny.run}: ")
    assert expected in str(refused.value)


def test_what_no_parameter_depends_on_may_differ(tiny):
    config = Run.load(tiny.run).config
    free = {"dropout": 0.5, "auxiliary_weight": 0.25, "auxiliary_negatives": 3}
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, **free))
    assert load_warm_start(tiny.run, tiny.new, changed).step > 0


def test_data_of_other_features_is_refused(tiny):
    number = Feature("price", "numeric", mean=1.0, deviation=2.0)
    with_price = Schema((*tiny.old.schema.item, number), tiny.old.schema.user)
    with pytest.raises(UserError, match=r"must have the item features of the run, item \(categ"):
        _check_features(Path("run"), with_price, tiny.new)
    otherwise = dataclasses.replace(number, mean=1.5)
    changed = Schema((*tiny.old.schema.item, otherwise), tiny.old.schema.user)
    with pytest.raises(UserError, match="must standardise 'price' as the run's data does, with"):
        _check_features(Path("run"), with_price, dataclasses.replace(tiny.new, schema=changed))


def test_a_mistake_is_one_message_and_makes_no_run_folder(tiny, tmp_path, capfd):
    def refusal(start: Path, *more: str) -> str:
        arguments = [*flags(tiny.new.path, tmp_path / "run", start), *more]
        assert train.main(arguments) == 2
        output = capfd.readouterr()
        assert output.out == ""
        assert "Traceback" not in output.err
        assert not (tmp_path / "run").exists()
        return output.err

    assert "does not exist" in refusal(tmp_path / "missing")
    differs = "model.batch_norm must be that of the run, 'running', got 'none'"
    assert differs in refusal(tiny.run, "--model.batch-norm=none")
    changed = tmp_path / "changed"
    shutil.copytree(tiny.run, changed)
    text = (changed / "config.json").read_text()
    digest = Run.load(changed).data_digest
    (changed / "config.json").write_text(text.replace(digest, "0" * 64))
    assert "has changed since (meta.json differs)" in refusal(changed)
