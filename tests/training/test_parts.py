"""Training on a dataset folder in one part and in several."""

import json
from pathlib import Path

import pytest
from support import tiny_run
from support.small_dataset import in_parts
from support.tiny_run import bits, evaluations, light_flags, saved_states

from dien_jax import train
from dien_jax.runs.trained import score_split

pytestmark = pytest.mark.long


def test_a_run_does_not_depend_on_the_parts_of_its_data(tmp_path: Path) -> None:
    """Parameters and metrics are equal to the last bit."""
    unsorted = tiny_run.write_data(tmp_path / "unsorted")
    one = in_parts(unsorted, tmp_path / "one", [])
    three = in_parts(unsorted, tmp_path / "three", [7, 20])
    states, records = [], []
    for data in (one, three):
        folder = tmp_path / f"run-{data.name}"
        assert (
            train.main([*light_flags(data, folder), "--model.statistics", "--train.epochs=1"]) == 0
        )
        states.append({name: bits(state) for name, (_, state, _) in saved_states(folder).items()})
        records.append([line["valid"] for line in evaluations(folder)])
    assert states[0] == states[1]
    assert records[0] == records[1]
    expected = score_split(tmp_path / "run-one", "test")
    found = score_split(tmp_path / "run-one", "test", data=three)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.metrics() == expected.metrics()
    result = json.loads((tmp_path / "run-three" / "result.json").read_text())
    assert result["test"]["auc"] == expected.metrics()["auc"]
