"""The benchmarks measure what they say, on sizes that take no time."""

import dataclasses
import json

import pytest

from benchmarks import recurrence, train_step, trials
from benchmarks.cases import Case
from benchmarks.timing import print_rows, write_rows
from dien_jax.config import Config, TrainConfig

FIELDS = {
    "benchmark", "case", "system", "threads", "policy", "median_ms", "samples_per_second",
    "peak_mb", "device", "versions",
}  # fmt: skip


def test_a_row_of_the_train_step_has_every_field(tmp_path, capsys) -> None:
    config = Config(train=TrainConfig(batch_size=4, max_history=3))
    row = train_step.full_length(config, repeats=4)
    assert set(row) >= FIELDS
    assert row["samples_per_second"] == pytest.approx(4000 / row["median_ms"])
    print_rows([row], train_step.COLUMNS)
    assert capsys.readouterr().out.startswith("| case | policy |")
    write_rows(tmp_path / "new" / "rows.json", [row])
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == [row]


@pytest.mark.parametrize("cell", recurrence.CELLS)
def test_the_recurrence_benchmark_compares_with_the_oracle(cell) -> None:
    arguments = recurrence.operands(cell, Case(2, 3, 4))
    expected, found = (
        recurrence.computation(cell, name, gradients=True)(*arguments)
        for name in recurrence.IMPLEMENTATIONS
    )
    assert 0 <= recurrence.deviation(found, expected) < 1e-5
    assert recurrence.deviation(tuple(2 * leaf for leaf in found[:1]), expected[:1]) > 0.5


def test_every_trial_is_a_valid_configuration() -> None:
    for trial in json.loads(trials.TRIALS.read_text()).values():
        config = trials.configured(trial["preset"], trial["settings"])
        assert dataclasses.is_dataclass(config)
        assert trial["examples"] in ("as given", "every event")
