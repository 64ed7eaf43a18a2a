"""Benchmarks at tiny sizes: rows, tables, files and error messages."""

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from support import small_dataset, tiny_run, untrained_run

from benchmarks import (
    compile_only,
    embedding_rows,
    first_step,
    inputs,
    networks,
    peer_accuracy,
    peers,
    preparation,
    ranking,
    recurrence,
    scaling,
    scoring,
    train_step,
    train_throughput,
)
from benchmarks.common import comparison
from benchmarks.common.cases import Case
from benchmarks.common.compiled_text import collectives
from benchmarks.common.timing import WARM_UP, interleaved_milliseconds, versions_of
from benchmarks.common.training import Training
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.tables import Batch
from dien_jax.model import statistics_names

pytestmark = [pytest.mark.long, pytest.mark.repository]

FIELDS = {
    "benchmark", "case", "system", "threads", "median_ms", "samples_per_second",
    "peak_mb", "device", "versions",
}  # fmt: skip
SMALL = member("base_model", ModelConfig(embedding_size=2, layers=(4,), statistics=False))
TINY, TINY_RAGGED = Case(2, 3, 4), Case(3, 9, 4, ragged=True)


def rows_of(main: Callable[[list[str]], None], folder: Path, *flags: str) -> list[dict[str, Any]]:
    main([*flags, "--json", str(folder / "rows.json")])
    return json.loads((folder / "rows.json").read_text())


def test_the_networks_benchmark_compares_with_the_oracle(tmp_path, monkeypatch) -> None:
    case = Case(batch=6, steps=5, hidden=4, ragged=True)
    monkeypatch.setattr(networks, "CASES", {"tiny": case})
    rows = rows_of(networks.main, tmp_path, "--cases", "tiny", "--repeats", "2")
    names = ("attention", "attention", "auxiliary loss", "candidates")
    found = [(row["network"], row["implementation"]) for row in rows]
    assert found == [*itertools.product(names, ("reference", "xla", "native"))][:12]
    assert all(0 <= row["max_error"] < 1e-4 for row in rows)


def test_inputs_of_a_group_are_0_to_the_tower(tmp_path, monkeypatch) -> None:
    data = small_dataset.write_wide(tmp_path / "data")
    model = replace(SMALL, statistics=True)
    monkeypatch.setattr(inputs, "preset", lambda name: Config(model, train=TrainConfig(epochs=1)))
    monkeypatch.setattr(inputs, "GROUPS", {"none": (), "similarities": ("similarity", "next")})
    rows = rows_of(inputs.main, tmp_path, str(data), "--seeds", "1")
    names = statistics_names(open_dataset(data).schema)
    without = sum("similarity" not in name and "next" not in name for name in names)
    assert [row["inputs"] for row in rows] == [len(names), without]
    assert rows[0]["valid_auc"] != rows[1]["valid_auc"]


def test_the_train_step_has_a_row_for_each_implementation_and_peer() -> None:
    config = Config(SMALL, train=TrainConfig(batch_size=4, max_history=3))
    called: list[tuple[int, ...]] = []
    made = SimpleNamespace(prepare=lambda arrays: arrays.history.shape)
    made.step = lambda *shape: called.append(shape)
    other: dict[str, Any] = {
        "other": SimpleNamespace(make_peer=lambda *_, seed: made, VERSIONS={"other": "1"})
    }
    named = {"recurrences": ("native", "xla"), "peers": other}
    rows = train_step.full_length(config, repeats=4, **named)
    assert [row["system"] for row in rows] == ["dien_jax, native", "dien_jax, xla", "other"]
    for row in rows:
        assert set(row) >= FIELDS
        assert row["samples_per_second"] == pytest.approx(4000 / row["median_ms"])
        assert ("other" in row["versions"]) == (row["system"] == "other")
    assert len(called) > 4
    assert set(called) == {(4, 3)}


def test_starts_are_timed_with_an_empty_and_a_full_cache(tmp_path, monkeypatch, capsys) -> None:
    calls: list[tuple[str, Path]] = []

    def timed(command, line, cache):
        calls.append((command[0], cache))
        return 1000.0 * len(calls)

    monkeypatch.setattr(first_step, "milliseconds", timed)
    flags = [str(tmp_path), "--serve", "runs/first", "--repeats", "2"]
    rows = rows_of(first_step.main, tmp_path / "new", *flags)
    assert [row["median_ms"] for row in rows] == [3000, 4000, 5000, 6000]
    assert [name for name, _ in calls] == 2 * [*2 * ["dien_jax.train"], *2 * ["dien_jax.serve"]]
    caches = [cache for _, cache in calls]
    assert caches[::2] == caches[1::2]
    assert len({*caches}) == 4
    assert capsys.readouterr().out.startswith("| case | system | policy |")


def test_tables_of_embeddings_have_rows_of_time_and_memory(tmp_path, monkeypatch, capsys) -> None:
    config = Config(SMALL, train=TrainConfig(batch_size=4))
    monkeypatch.setattr(embedding_rows, "Config", lambda: config)
    flags = ["--rows", "50", "60000", "--steps", "3", "--repeats", "2"]
    found = rows_of(embedding_rows.main, tmp_path, *flags, "--updates", "dense", "lazy_adam")
    rows = {(row["policy"], row["rows"]): row for row in found}
    assert set(rows) == set(itertools.product(("dense", "lazy_adam"), (50, 60_000)))
    assert all(set(row) >= FIELDS for row in rows.values())
    more = {name: rows[name, 60_000]["peak_mb"] - rows[name, 50]["peak_mb"] for name, _ in rows}
    table = 60_000 * 2 * 4 / 2**20  # of embeddings; with two moments in either update
    assert 3 * table < more["lazy_adam"] < more["dense"] - 0.9 * table
    assert capsys.readouterr().out.startswith("| case | policy |")
    with pytest.raises(SystemExit):
        embedding_rows.main(["--rows", "0"])
    assert "--rows must be at least 2, got 0" in capsys.readouterr().err


def test_a_deviation_is_a_share_of_the_largest_entry() -> None:
    expected = (np.array([1.0, -4.0]), np.zeros(2))
    assert comparison.deviation(expected, expected) == 0
    assert comparison.deviation((np.array([1.0, -3.0]), np.zeros(2)), expected) == 0.25
    assert comparison.deviation((np.array([np.nan, -4.0]), np.zeros(2)), expected) == float("inf")


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.setattr(recurrence, "CASES", {"tiny": TINY, "ragged": TINY_RAGGED})


def test_the_recurrence_benchmark_compares_with_the_oracle(tiny, tmp_path, capsys) -> None:
    settings = ["--precision", "high", "--form", "authors", "--cells", "augru", "--repeats", "3"]
    rows = rows_of(recurrence.main, tmp_path, *settings)
    found = {(row["case"], row["cell"], row["mode"], row["implementation"]) for row in rows}
    names = ("reference", "xla", "native")
    assert found == set(itertools.product(("tiny", "ragged"), ("augru",), recurrence.MODES, names))
    for row in rows:
        assert (row["form"], row["precision"]) == ("authors", "high")
        assert (row["of_reference"] == 1) == (row["implementation"] == "reference")
        assert 0 <= row["max_error"] < 1e-5
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)


def test_the_recurrence_benchmark_names_what_deviates_or_does_not_run(
    tiny, monkeypatch, capsys
) -> None:
    def raising(error: Exception) -> recurrence.Contender:
        call = Mock(side_effect=error)
        return recurrence.Contender(call, call)

    def contenders(*arguments, **settings):
        return real(*arguments, **settings) | {"refusing": raising(ValueError("too wide"))} | more

    real, more = recurrence.contenders, {}
    monkeypatch.setattr(recurrence, "contenders", contenders)
    arguments = ["--cases", "tiny", "--cells", "gru", "--implementations", "xla", "--repeats", "2"]
    recurrence.main(arguments)
    printed = capsys.readouterr().out
    assert "| tiny | gru | forward | xla |" in printed
    assert "\ntiny, gru, forward, refusing: not run: ValueError: too wide\n" in printed
    more["broken"] = raising(RuntimeError("out of registers"))
    monkeypatch.setattr(recurrence, "TOLERANCES", dict.fromkeys(recurrence.TOLERANCES, -1.0))
    with pytest.raises(SystemExit) as stopped:
        recurrence.main(arguments)
    assert "tiny, gru, forward, broken: not run: RuntimeError" in str(stopped.value)
    assert "tiny, gru, forward, xla: deviates from the oracle by" in str(stopped.value)


def test_peers_that_are_not_installed_are_named(tiny, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.torch_rnn", raising=False)
    with pytest.raises(SystemExit, match="--peers needs PyTorch: pip install torch"):
        recurrence.main(["--peers"])
    here = {"dien_jax": "benchmarks.common.timing"}
    found = peers.installed({**here, "no-such-package": "no_such_module"})
    assert {name: module.__name__ for name, module in found.items()} == here
    assert capsys.readouterr().err == "no-such-package is not installed: left out\n"
    with pytest.raises(SystemExit, match="no-such-package, nor-this: none is installed"):
        peers.installed({"no-such-package": "", "nor-this": ""})


def test_peers_get_the_same_real_rows() -> None:
    def batch_of(steps: int) -> Batch:
        """Three real rows and a filler row; the first history is empty."""
        row = np.arange(4, dtype=np.int32)
        history = np.arange(4 * steps, dtype=np.int32).reshape(4, steps) % 5
        lengths = np.array([0, 2, steps, steps], np.int32)
        label, weight = np.array([0, 1, 1, 0], np.float32), (row < 3).astype(np.float32)
        return Batch(history, lengths, row, row, label, weight, {})

    found, again = ([*peers.arrays_of([batch_of(4), batch_of(8)], 5)] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    for arrays, steps in zip(found, (4, 8), strict=True):
        assert arrays.history.shape == arrays.negatives.shape == (3, steps)
        assert set(np.unique(arrays.negatives)) <= {1, 2, 3, 4}
        assert arrays.lengths.tolist() == [1, 2, steps]
        assert len(arrays.item) == len(arrays.user) == len(arrays.label) == 3


@pytest.mark.parametrize("package", [p for p in peers.PEERS if p in versions_of(p)])
def test_an_installed_peer_learns_a_batch_and_ignores_padding(package) -> None:
    rng = np.random.default_rng(0)
    history, negatives = rng.integers(1, 9, (2, 32, 8))
    lengths, (item, user) = rng.integers(2, 6, 32), rng.integers(1, 9, (2, 32))
    history *= np.arange(8) < lengths[:, None]
    padded = peers.Arrays(history, negatives, lengths, item, user, (item > 4).astype(np.float32))
    arrays = padded._replace(history=history[:, :5], negatives=negatives[:, :5])
    config, sizes = peer_accuracy.settings()["package"], {"item": 9, "category": 9, "user": 9}
    peer = importlib.import_module(peers.PEERS[package]).make_peer(config, sizes, np.arange(9), 0)
    for _ in range(100):
        peer.step(*peer.prepare(arrays))
    found, again = (peer.predict(*peer.prepare(each)) for each in (arrays, padded))
    np.testing.assert_allclose(found, again, atol=1e-6)
    assert 0 <= found[item <= 4].max() < 0.5 < found[item > 4].min() <= 1


def test_the_accuracy_of_peers_is_that_of_the_best_epoch(tmp_path, monkeypatch, capsys) -> None:
    data = tiny_run.write_data(tmp_path / "data")

    class Last:
        """Scores items by the label that their rows had last."""

        def __init__(self, config, sizes, category, seed):
            self.liked = np.zeros(sizes["item"])

        def prepare(self, arrays):
            return (arrays,)

        def step(self, arrays):
            self.liked[arrays.item] = arrays.label

        def predict(self, arrays):
            return self.liked[arrays.item]

    module = SimpleNamespace(make_peer=Last, VERSIONS={"other": "1"})
    monkeypatch.setattr(peer_accuracy, "installed", lambda: {"other": module})
    rows = rows_of(peer_accuracy.main, tmp_path, str(data), "--seeds", "2", "--epochs", "9")
    progress = capsys.readouterr().err.split("data other ")[1:]
    assert [(row["settings"], row["seed"]) for row in rows] == [
        ("package", 0), ("package", 1), ("dien_jax", 0), ("dien_jax", 1),
    ]  # fmt: skip
    for row, lines in zip(rows, progress, strict=True):
        found = [float(line.rpartition(" ")[2]) for line in lines.strip().splitlines()[1:]]
        assert row["epoch"] == 1 + found.index(max(found))
        assert len(found) == min(row["epoch"] + peer_accuracy.PATIENCE, 9)
        assert row["valid_auc"] == pytest.approx(max(found), abs=1e-4)
        assert row["versions"]["other"] == "1"


def test_interleaved_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved_milliseconds(calls, repeats=4)
    assert {name: len(of_one) for name, of_one in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(order[-12:]) == "abccbaabccba"
    assert len(order) == 3 * (4 + WARM_UP)


def test_throughput_counts_every_example_and_the_wait_for_batches(tmp_path, monkeypatch) -> None:
    data = tiny_run.write_data(tmp_path / "tiny")
    config = Config(SMALL, train=TrainConfig(batch_size=24, max_history=8, buckets=(4,)))
    for mode in ("train", "score"):
        found = train_throughput.epochs(config, open_dataset(data), mode, count=2, most=None)
        assert [(steps, examples) for steps, _, _, examples in found] == [(3, 64)] * 2
        assert all(0 < waited < seconds for _, seconds, waited, _ in found)
    programs: list[int] = []  # after each step

    def counted(self: Training, batch: Batch, take: Any = Training.take) -> None:
        take(self, batch)
        programs.append(self.step._cache_size())

    with monkeypatch.context() as patched:
        patched.setattr(Training, "take", counted)
        train_throughput.epochs(config, open_dataset(data), "train", count=3, most=1)
    assert programs[-4:] == [2] * 4  # no timed step compiles
    row = train_throughput.row(config, data, "train", count=1, most=2)
    assert set(row) >= {*FIELDS, *train_throughput.COLUMNS}
    assert 0 < row["loader_share"] < 1


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = small_dataset.write_wide(folder / "data")
    return untrained_run.write(folder / "run", data, model="din", statistics=False)


def test_the_ranking_benchmark_compares_with_rows_of_their_own(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ranking, "cold_start", lambda *arguments: [])
    flags = ["--run", str(run), "--candidates", "1", "4", "--histories", "9", "--repeats", "2"]
    rows = rows_of(ranking.main, tmp_path, *flags)
    found = {(row["candidates"], row["policy"]) for row in rows}
    assert found == set(itertools.product((1, 4), ("rows", "ranker", "remembered")))
    for row in rows:
        assert set(row) >= FIELDS - {"samples_per_second", "peak_mb"}
        assert (row["times_as_fast"] == 1) or row["policy"] != "rows"
        assert row["min_ms"] <= row["median_ms"] <= row["p99_ms"]
    monkeypatch.setattr(ranking, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="1, 9, rows: scores differ by"):
        ranking.main(flags)
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        ranking.main(["--run", str(tmp_path / "nowhere")])


def test_each_table_and_split_is_scored_by_a_command(run, tmp_path, monkeypatch, capsys) -> None:
    dataset, commands, size = open_dataset(run.parent / "data"), [], scoring.CHUNK + 9
    items, groups = set(dataset.vocabulary("item")[1:]), set(dataset.groups())

    def measured(command, folder, out) -> dict[str, float]:
        commands.append(command[2])
        if "--input" in command:
            _, *lines = Path(command[command.index("--input") + 1]).read_text().split()
            assert len(lines) == size
            for user, item, history in (line.replace('"', "").split(",") for line in lines):
                assert {item, *history.split("|")} <= items
                assert user in groups
        return {"seconds": 2.0, "peak_mb": 3.0, "disk_mb": 0.0, "peak_disk_mb": 0.0}

    monkeypatch.setattr(scoring, "measure", measured)
    rows = rows_of(scoring.main, tmp_path, str(run), "--rows", str(size))
    splits = [len(examples.label) for examples in dataset.splits.values() if len(examples.label)]
    assert [row["rows"] for row in rows] == [size, *splits]
    assert [row["samples_per_second"] for row in rows] == [each / 2 for each in (size, *splits)]
    assert commands == ["dien_jax.predict", *["dien_jax.evaluate"] * len(splits)]
    assert capsys.readouterr().out.count("| evaluate |") == len(splits)


def test_each_system_that_prepares_has_time_memory_and_disk(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "QUERIES", {"numpy": "open(__import__('sys').argv[2], 'w')"})
    rows = rows_of(preparation.main, tmp_path, "--events", "500", "--folder", str(tmp_path))
    assert [row["system"] for row in rows] == ["dien_jax", "numpy"]
    assert all(row["peak_mb"] > 5 and row["seconds"] > 0 for row in rows)
    assert 0 < rows[0]["disk_mb"] <= rows[0]["peak_disk_mb"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


TEXT = """HloModule step

%body.1 (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %sum.2 = f32[4]{0} all-reduce(%p), to_apply=%add
}

%called.9 (p: f32[4]) -> f32[4] {
  ROOT %all = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p)
}

ENTRY %main.3 (p: f32[8,4]) -> f32[8,4] {
  %w = f32[4]{0} while(%p), condition=%cond, body=%body.1
  %f = f32[4]{0} fusion(%p), kind=kLoop, calls=%called.9
  ROOT %x = (f32[2,4]{1,0}, bf16[2,4]{1,0}) all-to-all(%p, %q)
}
"""


def test_collectives_are_counted_with_their_bytes_and_loops() -> None:
    found = collectives(TEXT, devices=4)
    assert sorted(one.kind for one in found) == ["all-gather", "all-reduce", "all-to-all"]
    assert {one.kind: one.sent for one in found} == {
        "all-reduce": 2 * 3 / 4 * 16,
        "all-gather": 3 / 4 * 8 * 4 * 4,
        "all-to-all": 3 / 4 * 8 * (4 + 2),
    }
    assert [one.kind for one in found if one.in_loop] == ["all-reduce"]


def test_a_number_of_devices_has_a_process_and_two_rows(tmp_path, capsys) -> None:
    flags = ["--devices", "2", "--batch", "2", "--total", "4", "--steps", "3", "--rows", "5000"]
    rows = rows_of(scaling.main, tmp_path, *flags, "--repeats", "2")
    found = [(row["scaling"], row["devices"], row["batch"], row["virtual"]) for row in rows]
    assert found == [("weak", 2, 4, True), ("strong", 2, 4, True)]
    assert all(row["sent_kb"] > 0 and row["of_one"] == 1 for row in rows)
    assert capsys.readouterr().out.startswith("| scaling | devices | virtual |")


def test_an_absent_compiler_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as raised:
        compile_only.main(["--target", "tpu-v5e", "--quick"])
    assert raised.value.code == 2
    assert "pip install libtpu" in capsys.readouterr().err
