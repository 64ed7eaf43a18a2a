"""A calibrated run scores alike in evaluation, in a table, in a ranker and in an exported file."""

from pathlib import Path

import numpy as np
import pytest
from support import small_dataset, untrained_run
from support.small_dataset import CONTEXT, SLASH
from support.untrained_run import TOLERANCE

from dien_jax import Ranker, load_run, score_split
from dien_jax.inference import export_run, score_requests
from dien_jax.runs.calibration import Calibration
from dien_jax.server.current_model import model_version

pytestmark = pytest.mark.long

SLOPE, OFFSET = 0.4, -0.7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    data = small_dataset.write(folder / "data")
    return untrained_run.write(folder / "run", data, model="din", buckets=(), statistics=False)


def mapped(scores: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Scores by the line."""
    logits = SLOPE * np.log(scores / (1 - scores)) + OFFSET + shift
    return 1 / (1 + np.exp(-logits))


def ranked(ranker: Ranker) -> dict[str, float]:
    """Scores of all items by id."""
    ranking = ranker.rank(small_dataset.ITEMS[1:3], small_dataset.ITEMS[1:], "", CONTEXT)
    return dict(zip(ranking.ids, ranking.scores.tolist(), strict=True))


def test_all_scores_of_a_run_are_calibrated_and_its_order_stays(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "requests.csv"
    rows = "".join(f",{item},{SLASH},desk,q\n" for item in (SLASH, "new"))
    table.write_text(f"user,item,history,device,query\n{rows}", encoding="utf-8")

    def in_table(name: str) -> np.ndarray:
        score_requests(run, table, tmp_path / name)
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()[1:]
        return np.array([float(line.rpartition(",")[2]) for line in lines])

    split, ranking = score_split(run, "train").scores, ranked(Ranker(run))
    scored = in_table("a.csv")
    version = model_version(run)
    shift = -1.25
    Calibration(SLOPE, OFFSET, step=1, shift=shift).save(run)
    assert model_version(run) != version
    found = score_split(run, "train").scores
    np.testing.assert_allclose(found, mapped(split), **TOLERANCE)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(split))
    np.testing.assert_allclose(in_table("b.csv"), mapped(scored, shift), **TOLERANCE)
    calibrated = ranked(Ranker(run))
    assert list(calibrated) == list(ranking)
    expected = mapped(np.array([*ranking.values()]), shift)
    np.testing.assert_allclose([*calibrated.values()], expected, **TOLERANCE)
    report = export_run(run, tmp_path / "model.dien")
    assert report["largest_difference"] < 1e-6
    exported = ranked(Ranker(tmp_path / "model.dien"))
    np.testing.assert_allclose([*exported.values()], expected, **TOLERANCE)
    assert load_run(run).calibration is not None
