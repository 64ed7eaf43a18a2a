"""Models whose large tables stay in host memory score as those on the device."""

import gc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import untrained_run, wide_tables

from dien_jax import Ranker, RankRequest, evaluate, load_run, predict, score_split
from dien_jax.errors import UserError
from dien_jax.inference import export_run
from dien_jax.inference.archive import read_archive
from dien_jax.inspection.examples import Inspector
from dien_jax.inspection.importance import permutation_importance
from dien_jax.inspection.item_map import embedding_map
from dien_jax.runs import trained
from dien_jax.server.current_model import CurrentModel
from dien_jax.server.options import ServerOptions
from dien_jax.server.prometheus import Metrics
from dien_jax.steps import embedding_rows

TOLERANCE = {"rtol": 2e-5, "atol": 1e-7}
"""To float32 rounding: compilers order the sums of programs of other shapes differently."""
CONTEXT = {"device": "device 7", "words": ["words 3", "words 90", "new"], "hour": 3}
HISTORY = [f"item {row}" for row in (5, 380, 17, 5)]
CANDIDATES = [f"item {row}" for row in (9, 380, 17, 300, 12)] + ["a new item"]
COMPILED: list[str] = []

jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)


@pytest.fixture(autouse=True)
def few_rows_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_tables.write(tmp_path_factory.mktemp("wide") / "data")


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    return untrained_run.write(data.parent / "run", data, buckets=(3,))


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_rows, "DENSE_ROWS", 200)
        export_run(run, run.parent / "model.dien", tables="host")
    return run.parent / "model.dien"


def has_whole_table(arrays: Any) -> bool:
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays) if isinstance(leaf, jax.Array)]
    return any(size in shape for size in wide_tables.ROWS for shape in shapes)


def same(found: Any, expected: Any) -> None:
    assert found.ids == expected.ids
    assert found[2:] == expected[2:]
    np.testing.assert_allclose(found.scores, expected.scores, **TOLERANCE)
    assert np.ptp(expected.scores) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [{}, {"model": "din", "statistics": False}],
    ids=["dien", "without statistics"],
)
def test_evaluations_are_equal(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = untrained_run.write(tmp_path / "run", data, **changes)
    on_device, on_host = (score_split(run, tables=tables) for tables in ("device", "host"))
    np.testing.assert_allclose(on_host.scores, on_device.scores, **TOLERANCE)
    assert np.ptp(on_device.scores) > 0.05


def test_rankings_are_equal(run: Path) -> None:
    rankers = [Ranker(run, tables=tables) for tables in ("device", "host")]
    requests = [
        RankRequest(HISTORY, CANDIDATES, "user 5", CONTEXT),
        RankRequest(HISTORY[:2], CANDIDATES[:3], "user 300", CONTEXT),
        RankRequest(HISTORY[1:], CANDIDATES, None, dict.fromkeys(CONTEXT)),
        RankRequest([], CANDIDATES, "a new user", CONTEXT),
    ]
    for expected, found in zip(*(ranker.rank_many(requests) for ranker in rankers), strict=True):
        same(found, expected)
    for ranker in rankers:
        ranker.remember("user 8", HISTORY[:-2])  # then into a larger bucket
        for event in HISTORY[-2:]:
            ranker.observe("user 8", event)
    expected, found = (ranker.rank(None, CANDIDATES, "user 8", CONTEXT) for ranker in rankers)
    same(found, expected)


def test_no_table_reaches_the_device(run: Path) -> None:
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    ranker = Ranker(run, tables="host")
    ranker.rank(HISTORY, CANDIDATES, "user 5", CONTEXT)
    model = load_run(run, tables="host")
    tables = model.feature_tables()._replace(factors={})  # their vectors are on the device
    inputs = model.params, model.batch_stats, tables
    gc.collect()
    made = [array for array in jax.live_arrays() if id(array) not in before]
    assert len(made) > 20
    assert not has_whole_table(made)
    assert has_whole_table(load_run(run, tables="device").params)
    on_device = sum(leaf.nbytes for leaf in jax.tree.leaves(inputs) if isinstance(leaf, jax.Array))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(inputs))
    assert on_device < whole / 2


def test_requests_compile_nothing_once_it_is_warm(run: Path) -> None:
    ranker = Ranker(run, tables="host")
    ranker.warm_up(users=2, candidates=8)
    compiled = len(COMPILED)
    random = np.random.default_rng(0)
    for length in (0, 1, 3, 5):
        rows = random.integers(1, wide_tables.ITEMS, (2, 8))
        history, candidates = ([f"item {row}" for row in part] for part in rows)
        request = RankRequest(history[:length], candidates[: length + 2], "user 5", CONTEXT)
        ranker.rank_many([request, request])
        ranker.rank_many([request])
    assert len(COMPILED) == compiled


def test_exported_files(run: Path, exported: Path) -> None:
    expected = Ranker(run, tables="device").rank(HISTORY, CANDIDATES, "user 5", CONTEXT)
    for tables in ("device", "host"):
        ranker = Ranker(exported, tables=tables)
        same(ranker.rank(HISTORY, CANDIDATES, "user 5", CONTEXT), expected)
        ranker.remember("user 5", HISTORY[:-1])
        ranker.observe("user 5", HISTORY[-1])
        same(ranker.rank(None, CANDIDATES, "user 5", CONTEXT), expected)
        model = ranker._programs._arguments
        assert has_whole_table(model) == (tables == "device")


def test_an_export_from_the_device_has_the_same_arrays(run: Path, exported: Path) -> None:
    export_run(run, run.parent / "other.dien", tables="device")
    one, other = (read_archive(file) for file in (exported, run.parent / "other.dien"))
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        np.testing.assert_array_equal(other.weights[name], array)
    shapes = [model.manifest["programs"] for model in (one, other)]
    assert shapes[0] == shapes[1]


def test_inspection(run: Path) -> None:
    models = [load_run(run, tables=tables) for tables in ("device", "host")]
    expected, found = (Inspector(model).examples("test", [0, 5]) for model in models)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other.probability, one.probability, **TOLERANCE)
        for name, values in one.measures.items():
            np.testing.assert_allclose(other.measures[name], values, **TOLERANCE)
    measured = [permutation_importance(model, "valid", permutations=1) for model in models]
    by_name = [{one.input: one.drop.value for one in of.inputs} for of in measured]
    assert by_name[1] == pytest.approx(by_name[0], abs=0.005)  # an equal score may change ranks
    maps = [embedding_map(model).points for model in models]
    np.testing.assert_array_equal(*maps)


def test_automatic_choice_is_by_the_devices_memory(run: Path, monkeypatch, capsys) -> None:
    def tables(memory: int | None) -> int:
        monkeypatch.setattr(trained, "device_bytes", lambda: memory)
        return len(load_run(run).host_tables)

    assert [tables(None), tables(10**9)] == [0, 0]
    assert capsys.readouterr().err == ""
    assert tables(10**5) == len(wide_tables.ROWS)
    assert "tables in host memory: context device, context words" in capsys.readouterr().err


def test_without_large_tables_all_is_on_the_device(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 4096)
    assert not load_run(run, tables="host").host_tables
    assert "tables in host memory: none has more than 4,096 rows" in capsys.readouterr().err


def test_files_with_programs_of_whole_tables_stay_on_the_device(run: Path, monkeypatch) -> None:
    file = run.parent / "whole.dien"
    with monkeypatch.context() as patch:
        patch.setattr(embedding_rows, "DENSE_ROWS", 4096)
        export_run(run, file)
    with pytest.raises(UserError, match=r"whole\.dien: its programs take whole tables"):
        Ranker(file, tables="host")
    Ranker(file)


def test_commands(run: Path, tmp_path: Path, capsys) -> None:
    printed = []
    for tables in ("device", "host"):
        assert evaluate.main([str(run), "--tables", tables]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    table = tmp_path / "requests.csv"
    table.write_text("user,item,history,device,words,hour\nuser 5,item 9,item 5|item 380,x,,2\n")
    for tables in ("device", "host"):
        out = tmp_path / f"{tables}.csv"
        flags = ["--input", str(table), "--out", str(out), "--tables", tables]
        assert predict.main([str(run), *flags]) == 0
    rows = [(tmp_path / f"{tables}.csv").read_text().split(",") for tables in ("device", "host")]
    assert float(rows[1][-1]) == pytest.approx(float(rows[0][-1]), rel=2e-5)


def test_server(run: Path) -> None:
    served = CurrentModel(ServerOptions(run, tables="host"), Metrics()).served
    assert not has_whole_table(served.ranker._programs._arguments)
