"""Scores of a run are free of batch mates, padding and order, by the files of run and data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import untrained_run

from dien_jax import score_split

pytestmark = pytest.mark.long

LAYOUTS = [(1, []), (20, [4])]
"""Batch size and buckets; the run has 3 and [2, 4]. Histories have 1 to 6 events."""


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory) -> tuple[Path, Path]:
    """A run folder, and a copy of its data."""
    folder = tmp_path_factory.mktemp("scores")
    shutil.copytree(data, folder / "data")
    untrained_run.write(folder / "run", folder / "data", statistics=False)
    return folder / "run", folder / "data"


def test_scores_do_not_depend_on_batch_size_and_buckets(run, tmp_path):
    expected = score_split(run[0], "test").scores
    assert np.ptp(expected) > 1e-3
    for number, (batch_size, buckets) in enumerate(LAYOUTS):
        other = shutil.copytree(run[0], tmp_path / str(number))
        config = json.loads((other / "config.json").read_text())
        config["train"].update(batch_size=batch_size, buckets=buckets)
        (other / "config.json").write_text(json.dumps(config))
        # Sums of another order: some units in the last place of a float32 logit below 10.
        np.testing.assert_allclose(score_split(other, "test").scores, expected, atol=1e-6)


def test_scores_follow_their_examples(run):
    folder, data = run
    expected = score_split(folder, "test").scores
    order = np.random.default_rng(0).permutation(len(expected))
    for file in (data / "examples" / "test").glob("*/values.npy"):
        np.save(file, np.load(file)[order])
    # Examples of one length meet others in their batch, of the same padded length.
    np.testing.assert_allclose(score_split(folder, "test").scores, expected[order], atol=1e-6)
