"""Benchmarks at tiny sizes: rows, tables, files and error messages."""

import functools
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support import small_dataset, tiny_run, untrained_run

from benchmarks import (
    compile_only,
    embedding_rows,
    first_step,
    history_length,
    networks,
    ragged,
    ranking,
    recurrence,
    train_step,
    train_throughput,
)
from benchmarks.common import comparison, plots
from benchmarks.common.absent_devices import lowering_for
from benchmarks.common.cases import CASES, Case, history_lengths
from benchmarks.common.report import print_rows, write_rows
from benchmarks.common.timing import WARM_UP, interleaved_milliseconds
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset

pytestmark = [pytest.mark.long, pytest.mark.repository]

FIELDS = {
    "benchmark", "case", "system", "threads", "policy", "median_ms", "samples_per_second",
    "peak_mb", "device", "versions",
}  # fmt: skip
RECURRENCE_FIELDS = {
    "benchmark", "case", "implementation", "cell", "form", "mode", "precision", "threads",
    "median_ms", "spread_ms", "of_reference", "max_error", "device", "versions",
}  # fmt: skip
SMALL = ModelConfig(embedding_size=2, layers=(4,), statistics=False)
TINY, TINY_RAGGED = Case(2, 3, 4), Case(3, 9, 4, ragged=True)


@pytest.mark.parametrize(
    ("network", "mode", "arrays"),
    [("attention", "forward + backward", 8), ("auxiliary loss", "forward + backward", 10),
     ("candidates", "forward", 1)],
)  # fmt: skip
def test_implementations_of_networks_agree(network, mode, arrays, monkeypatch) -> None:
    monkeypatch.setattr(networks, "CANDIDATES", 5)
    case = Case(batch=6, steps=5, hidden=4, ragged=True)
    names = ("reference", "xla", "native")
    measured = networks.contenders(network, case, names, mode)
    expected = measured["reference"].result()
    rows, raised = comparison.measure(measured, expected, repeats=2, benchmark="networks")
    assert not raised
    assert [row["implementation"] for row in rows] == [*names]
    assert all(row["max_error"] < 1e-4 for row in rows)
    assert len(jax.tree.leaves(expected)) == arrays


def test_implementations_of_the_train_step_have_rows_of_their_own() -> None:
    config = Config(member("base_model", SMALL), train=TrainConfig(batch_size=4, max_history=3))
    rows = train_step.full_length(config, repeats=2, recurrences=("native", "xla"))
    assert [row["system"] for row in rows] == ["dien_jax, native", "dien_jax, xla"]


def test_a_row_of_the_train_step_has_every_field(tmp_path, capsys) -> None:
    config = Config(member("base_model", SMALL), train=TrainConfig(batch_size=4, max_history=3))
    called = []

    def steps_of(config, schema, category, batches):
        return [functools.partial(called.append, batch.history.shape) for batch in batches]

    other = SimpleNamespace(steps_of=steps_of, VERSIONS={"other": "1"})
    row, theirs = train_step.full_length(config, repeats=4, peers={"other": other})
    assert set(row) >= FIELDS
    assert row["samples_per_second"] == pytest.approx(4000 / row["median_ms"])
    assert (theirs["system"], theirs["versions"]["other"]) == ("other", "1")
    assert "other" not in row["versions"]
    assert len(called) > 4
    assert set(called) == {(4, 3)}
    print_rows([row], train_step.COLUMNS)
    assert capsys.readouterr().out.startswith("| case | system | policy |")
    write_rows(tmp_path / "new" / "rows.json", [row])
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == [row]


def test_the_first_step_is_timed_with_an_empty_and_a_full_cache(
    tmp_path, monkeypatch, capsys
) -> None:
    caches: list[Path] = []

    def timed(data, preset, cache):
        caches.append(cache)
        return 1000.0 * len(caches)

    monkeypatch.setattr(first_step, "milliseconds_to_first_step", timed)
    file = tmp_path / "rows.json"
    first_step.main([str(tmp_path), "--repeats", "2", "--json", str(file)])
    empty, full = json.loads(file.read_text())
    assert (empty["median_ms"], full["median_ms"]) == (2000, 3000)
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert capsys.readouterr().out.startswith("| case | system | policy |")


def test_the_embedding_rows_benchmark_writes_table_rows_and_picture(
    tmp_path, monkeypatch, capsys
) -> None:
    pytest.importorskip("matplotlib")
    config = Config(member("base_model", SMALL), train=TrainConfig(batch_size=4))
    monkeypatch.setattr(embedding_rows, "Config", lambda: config)
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = ["--rows", "50", "60000", "--steps", "3", "--repeats", "2"]
    updates = ["--updates", "dense", "lazy_adam"]
    embedding_rows.main([*sizes, *updates, "--json", str(files[0]), "--plot", str(files[1])])
    rows = {(row["policy"], row["rows"]): row for row in json.loads(files[0].read_text())}
    assert set(rows) == set(itertools.product(("dense", "lazy_adam"), (50, 60_000)))
    for row in rows.values():
        assert set(row) >= FIELDS
    table = 60_000 * 2 * 4 / 2**20
    more = {
        policy: rows[policy, 60_000]["peak_mb"] - rows[policy, 50]["peak_mb"] for policy, _ in rows
    }
    features = weights = table / 2  # the category of each item; the logistic regression's weight
    tables = table + weights
    assert 3 * tables < more["lazy_adam"] < 3.2 * tables + 3 * features
    assert more["dense"] > more["lazy_adam"] + 0.9 * table
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith("| case | policy |")
    with pytest.raises(SystemExit):
        embedding_rows.main(["--rows", "0"])
    assert "--rows must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("cell", recurrence.CELLS)
@pytest.mark.parametrize("form", ["paper", "authors"])
def test_the_recurrence_benchmark_compares_with_the_oracle(cell, form) -> None:
    arguments = recurrence.operands(cell, TINY, form)
    expected, found = (
        recurrence.computation(cell, name, gradients=True, form=form)(*arguments)
        for name in ("reference", "xla")
    )
    assert 0 <= comparison.deviation(found, expected) < 1e-5
    assert comparison.deviation(tuple(2 * leaf for leaf in found[:1]), expected[:1]) > 0.5
    assert comparison.deviation((np.nan * found[0],), expected[:1]) == float("inf")


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.setattr(recurrence, "CASES", {"tiny": TINY, "ragged": TINY_RAGGED})


def test_the_recurrence_benchmark_writes_table_rows_and_picture(tiny, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    files = tmp_path / "new" / "rows.json", tmp_path / "new" / "rows.png"
    settings = ["--precision", "high", "--form", "authors", "--cells", "augru", "--repeats", "3"]
    recurrence.main([*settings, "--json", str(files[0]), "--plot", str(files[1])])
    rows = json.loads(files[0].read_text())
    found = {(row["case"], row["cell"], row["mode"], row["implementation"]) for row in rows}
    names = ("reference", "xla", "native")
    assert found == set(itertools.product(("tiny", "ragged"), ("augru",), recurrence.MODES, names))
    for row in rows:
        assert set(row) >= RECURRENCE_FIELDS
        assert (row["form"], row["precision"]) == ("authors", "high")
        assert (row["of_reference"] == 1) == (row["implementation"] == "reference")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert files[1].stat().st_size > 10_000


def test_the_recurrence_benchmark_fails_on_a_wrong_implementation(tiny, monkeypatch, capsys):
    monkeypatch.setattr(recurrence, "TOLERANCES", dict.fromkeys(recurrence.TOLERANCES, -1.0))
    with pytest.raises(SystemExit, match="tiny, gru, forward, xla: deviates from the oracle by"):
        recurrence.main(["--cases", "tiny", "--cells", "gru", "--repeats", "2"])
    assert "| tiny | gru | forward | xla |" in capsys.readouterr().out


def test_the_recurrence_benchmark_names_what_did_not_run(tiny, monkeypatch, capsys) -> None:
    def raising(error: Exception) -> recurrence.Contender:
        def call() -> None:
            raise error

        return recurrence.Contender(call, call)

    def contenders(*arguments, **settings):
        return real(*arguments, **settings) | {"refusing": raising(ValueError("too wide"))} | more

    real, more = recurrence.contenders, {}
    monkeypatch.setattr(recurrence, "contenders", contenders)
    arguments = ["--cases", "tiny", "--cells", "gru", "--repeats", "2"]
    recurrence.main(arguments)
    printed = capsys.readouterr().out
    assert "| tiny | gru | forward | xla |" in printed
    assert "\ntiny, gru, forward, refusing: not run: ValueError: too wide\n" in printed
    more["broken"] = raising(RuntimeError("out of registers"))
    with pytest.raises(SystemExit, match="broken: not run: RuntimeError"):
        recurrence.main(arguments)


def test_a_kernel_for_another_device_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        recurrence.main(["--implementations", "mosaic_tpu", "xla"])
    assert "implementation='mosaic_tpu' needs a TPU" in capsys.readouterr().err


def test_peers_without_pytorch_are_a_clear_error(tiny, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers", raising=False)
    with pytest.raises(SystemExit, match="--peers needs PyTorch: pip install torch"):
        recurrence.main(["--peers"])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("case", [TINY, TINY_RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("form", ["paper", "authors"])
@pytest.mark.parametrize("cell", recurrence.CELLS)
def test_peers_compute_what_the_oracle_does(cell, form, case) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.peers import torch_rnn as peers

    expected_names = {
        ("gru", "paper"): {"torch nn.GRU"} | ({"torch nn.GRU, packed"} if case.ragged else set()),
        ("augru", "paper"): {"torch script"},
        ("augru", "authors"): {"torch script"},
    }
    arguments = recurrence.operands(cell, case, form)
    for gradients in (False, True):
        settings = {"gradients": gradients, "form": form, "precision": "highest"}
        expected = recurrence.computation(cell, "reference", **settings)(*arguments)
        found = peers.contenders(cell, arguments, **settings)
        assert set(found) == expected_names.get((cell, form), set())
        for contender in found.values():
            contender.call()
            assert comparison.deviation(contender.result(), expected) < 1e-5
            assert contender.versions


def test_interleaved_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved_milliseconds(calls, repeats=4)
    assert {name: len(of_one) for name, of_one in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(order[-12:]) == "abccbaabccba"
    assert len(order) == 3 * (4 + WARM_UP)


def test_made_lengths_are_as_long_tailed_as_real_ones() -> None:
    many = history_lengths(20_000, 100)
    assert (many.min(), many.max(), np.median(many)) == (4, 100, 5)
    assert 7 < many.mean() < 9
    assert 12 <= np.quantile(many, 0.9) <= 14
    assert np.median(CASES["ragged"].lengths()) == 5
    assert 7 < CASES["ragged"].lengths().mean() < 9


def test_the_ragged_benchmark_gathers_batches_by_bucket() -> None:
    lengths = np.array([1, 2, 2, 3, 4, 4, 7, 8, 9, 0, 1], np.int32)
    found = ragged.batches(lengths, (2, 4, 100), Case(2, 9, 4))
    assert {edge: len(batch) for edge, batch in found.items()} == {2: 2, 4: 2, 9: 2}
    low = {2: 0, 4: 3, 9: 5}
    for edge, batch in found.items():
        assert low[edge] <= batch.min() <= batch.max() <= edge


def test_the_ragged_benchmark_on_a_dataset_folder(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("matplotlib")
    dataset = small_dataset.write(tmp_path / "data")
    lengths = ragged.training_lengths(dataset, 3)
    assert lengths.max() <= 3
    monkeypatch.setattr(ragged, "CASE", Case(2, 3, 4))
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    ragged.main(
        ["--data", str(dataset), "--repeats", "2", "--json", str(files[0]), "--plot", str(files[1])]
    )
    rows = json.loads(files[0].read_text())
    for row in rows:
        assert set(row) >= RECURRENCE_FIELDS - {"of_reference"}
        assert row["longest"] <= row["bucket"] <= row["padded_to"]
        assert row["live_steps"] <= 2 * row["longest"]
    assert files[1].stat().st_size > 5_000
    assert capsys.readouterr().out.startswith("| bucket |")
    with pytest.raises(SystemExit, match="nowhere"):
        ragged.main(["--data", str(tmp_path / "nowhere")])


def test_throughput_counts_every_example_and_the_wait_for_batches(tmp_path) -> None:
    data = tiny_run.write_data(tmp_path / "tiny")
    model = member("base_model", SMALL)
    config = Config(model=model, train=TrainConfig(batch_size=24, max_history=8, buckets=(4,)))
    for mode in ("train", "score"):
        found = train_throughput.epochs(config, open_dataset(data), mode, count=2, most=None)
        assert [(steps, examples) for steps, _, _, examples in found] == [(3, 64)] * 2
        assert all(0 < waited < seconds for _, seconds, waited, _ in found)
    [first] = train_throughput.epochs(config, open_dataset(data), "train", count=1, most=2)
    assert first[0] == 2
    row = train_throughput.row(config, data, "train", "padded", count=1)
    assert set(row) >= {*FIELDS, *train_throughput.COLUMNS}
    assert 0 < row["loader_share"] < 1


def test_a_row_of_history_lengths_has_every_field() -> None:
    model = member("base_model", SMALL)
    config = Config(model=model, train=TrainConfig(batch_size=4))
    row = history_length.of_length(config, 11, 4)
    assert set(row) >= {*FIELDS, *history_length.COLUMNS}
    assert (row["steps"], row["case"]) == (11, "B 4 T 11")


def test_curves_are_drawn(tmp_path) -> None:
    plots.curves(
        tmp_path / "new" / "curves.png",
        {"ms": {"a": ([1, 10], [2.0, 3.0]), "b": ([1, 10], [1.0, 1.5])}},
        x="rows",
        title="Some",
    )
    assert (tmp_path / "new" / "curves.png").stat().st_size > 5_000


def test_the_ranking_benchmark_compares_with_rows_of_their_own(
    tmp_path, monkeypatch, capsys
) -> None:
    pytest.importorskip("matplotlib")
    data = small_dataset.write(tmp_path / "data")
    run = untrained_run.write(tmp_path / "run", data, statistics=False)
    monkeypatch.setattr(ranking, "cold_start", lambda *arguments: [])
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    flags = ["--run", str(run), "--candidates", "1", "4", "--histories", "9", "--repeats", "2"]
    ranking.main([*flags, "--json", str(files[0]), "--plot", str(files[1])])
    rows = json.loads(files[0].read_text())
    found = {(row["candidates"], row["policy"]) for row in rows}
    assert found == set(itertools.product((1, 4), ("rows", "ranker", "remembered")))
    for row in rows:
        assert set(row) >= FIELDS - {"samples_per_second", "peak_mb"}
        assert (row["times_as_fast"] == 1) or row["policy"] != "rows"
        assert row["min_ms"] <= row["median_ms"] <= row["p99_ms"]
    assert files[1].stat().st_size > 5_000
    monkeypatch.setattr(ranking, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="1, 9, rows: scores differ by"):
        ranking.main(flags)
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        ranking.main(["--run", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("target", "kernels"), [("tpu-v5e", ["mosaic_tpu"]), ("h100", ["mosaic_gpu", "triton"])]
)
def test_kernels_compiled_for_an_absent_device_are_those_that_run_there(target, kernels) -> None:
    assert compile_only.kernels_for(target) == kernels


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(
    ("target", "kernel", "platform"), [("tpu-v5e", "mosaic_tpu", "tpu"), ("h100", "triton", "cuda")]
)
def test_a_train_step_lowers_for_an_absent_device(target, kernel, platform) -> None:
    model = ModelConfig(recurrence=kernel, statistics=False)
    config = Config(model, train=TrainConfig(batch_size=4, max_history=3))
    with lowering_for(target):
        step, arguments = compile_only.step_and_arguments(config)
        text = step.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    for name in ("recurrence_forward", "recurrence_backward"):
        assert f'"{name}"' in text


def test_an_absent_compiler_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as raised:
        compile_only.main(["--target", "tpu-v5e", "--quick"])
    assert raised.value.code == 2
    assert "pip install libtpu" in capsys.readouterr().err
