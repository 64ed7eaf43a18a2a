"""The baselines as rows of a study: fitted once for each data set, compared like runs."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from dien_jax.data.dataset import Dataset
from dien_jax.data.digests import data_digest
from dien_jax.errors import writing
from dien_jax.experiments.baseline_models import BASELINES
from dien_jax.experiments.baselines import BaselineResult, run_baselines
from dien_jax.experiments.result_tables import Line, folder_of
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import versions
from dien_jax.runs.scoring import write_predictions
from dien_jax.runs.summary import stored_scores
from dien_jax.utils.console import say
from dien_jax.utils.files import atomic_file, partial_folder

Known = dict[tuple[str, str, str], Line]
"""Lines of results by digest of the data, settings and seed."""


def add_baselines(
    names: Sequence[str], datasets: Sequence[Dataset], out: Path, known: Known, predictions: str
) -> None:
    """Fit the baselines of data sets that have none in ``known``, and add their lines.

    Their only seed is 0: a fit does not depend on a seed.
    Test scores go to the file ``predictions`` in ``out/runs/DATA/ROW/0``, as those of runs.
    """
    for name, dataset in zip(names, datasets, strict=True):
        digest = data_digest(dataset)
        if any((digest, row, "0") in known for row in BASELINES):
            continue
        if importlib.util.find_spec("lightgbm") is None:
            say("no rows of baselines: they need pip install 'dien_jax[baselines]'")
            return
        say(f"baselines of {name}")
        start = time.perf_counter()
        scratch = partial_folder(out / "baselines", "work-")
        with writing(out, "--out"), scratch as parent:
            folder = parent / "baselines"
            results = run_baselines(dataset.path, folder)
            seconds = (time.perf_counter() - start) / len(results)
            for result in results:
                scores = stored_scores(folder / folder_of(result.name), dataset, "test")
                file = out / "runs" / name / folder_of(result.name) / "0" / predictions
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(file) as stream:
                    write_predictions(stream, dataset, "test", scores)
                known[digest, result.name, "0"] = _line(name, digest, result, seconds)


def _line(data: str, digest: str, result: BaselineResult, seconds: float) -> Line:
    """Return the line of a baseline in ``results.csv``; its settings are its name."""
    used = versions()
    values = {"data": data, "row": result.name, "seed": 0}
    for split in ("valid", "test"):
        metrics = getattr(result, split)
        values |= {f"{split}_{metric}": metrics.get(metric) for metric in METRICS}
    values |= {"seconds": round(seconds, 1), "device": jax.devices()[0].device_kind}
    values |= {"jax": used["jax"], "python": used["python"]}
    values |= {"settings": result.name, "data_digest": digest}
    return {name: "" if value is None else str(value) for name, value in values.items()}
