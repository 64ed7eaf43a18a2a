"""Folders and files written by commit 9d7d61d are still read, and score as they did.

The folder ``commit_9d7d61d`` was made by the code of that commit; make.py documents how. Arrays
must be equal to the last bit anywhere. Scores must be where ``environment.json`` has recorded the
environment (versions of JAX, processor, settings of the compiler), and elsewhere to
``TOLERANCE``.
"""

import csv
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dien_jax import Config, Dataset, Ranker, load_run, open_dataset, predict, preset, resume
from dien_jax.config.preset_files import read_preset_file, with_settings, without_auto
from dien_jax.inference.archive import read_archive
from dien_jax.runs.folder import Run
from dien_jax.runs.scoring import trained_scores
from dien_jax.runs.trained import restore_state

pytestmark = pytest.mark.long

FROZEN = Path(__file__).with_name("commit_9d7d61d")
DATASET = FROZEN / "dataset"
RUNS = ("run_dien", "run_din")
WITHOUT_EFFECT = "--xla_cpu_parallel_codegen_split_count=1"
"""A flag of tests/conftest.py that the environments were recorded without: it joins the parts of a
program and changes no instruction, so all scores below keep every bit."""
TOLERANCE = 2e-6
"""Largest difference of two probabilities: other versions of JAX (0.10.2, 0.12.0.1), instructions
(SSE4.2, AVX2, AVX-512) and less optimisation made 3e-7, five roundings of float32. A layer's bias
that is taken for 0 makes 9e-5 or more, a feature or a matrix 1.7e-3 or more."""
TRAINED_TOLERANCE = 1e-4
"""The same after the last 156 steps of training are done again, where roundings add up: the same
environments made 5e-6."""
SIZES = {
    "model.embedding_size": 3,
    "model.hidden_size": 5,
    "model.attention_layers": [6],
    "model.auxiliary_layers": [6],
    "model.layers": [8, 4],
    "train.batch_size": 16,
    "train.epochs": 4,
    "train.patience": 0,
    "train.log_every": 8,
    "train.max_history": 24,
    "train.buckets": [8],
    "train.calibrate": False,
    "optim.learning_rate": 0.02,
}
SETTINGS = {
    "run_dien": ("dien", SIZES),
    "run_din": ("din", {**SIZES, "optim.name": "adamw", "optim.weight_decay": 0.01}),
}


@pytest.fixture(autouse=True, scope="module")
def nothing_is_written() -> Iterator[None]:
    """Check that the frozen folder is afterwards what it was before."""
    before = contents(FROZEN)
    yield
    assert contents(FROZEN) == before


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Scores by what was scored: those of this environment, or the first ones."""
    name = known_environment() or next(iter(read(FROZEN / "environment.json")))
    with np.load(FROZEN / "scores.npz") as archive:
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): archive[key]
            for key in archive.files
            if key.startswith(prefix)
        }


@pytest.fixture(scope="module")
def rankers() -> dict[str, Ranker]:
    """Rankers by the name of their file or run folder."""
    return {
        **{run: Ranker(FROZEN / run, DATASET) for run in RUNS},
        "model.dien": Ranker(FROZEN / "model.dien"),
    }


def read(file: Path) -> Any:
    """Read a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def environment() -> dict[str, Any]:
    """Describe the environment as make.py records it: scores depend on it to the last bit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    values = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    names = ("vendor_id", "cpu family", "model", "model name")
    return {
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "processor": {name: values.get(name) for name in names},
        "processor_flags": sorted(values.get("flags", "").split()),
        "xla_flags": [
            flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag != WITHOUT_EFFECT
        ],
        "disable_most_optimizations": jax.config.values.get(
            "jax_disable_most_optimizations", False
        ),
    }


def known_environment() -> str | None:
    """The name of the recorded environment that this one is like, if there is one."""
    ours = environment()
    for name, theirs in read(FROZEN / "environment.json").items():
        flat = {**theirs, **theirs["versions"]}
        if all(flat[key] == value for key, value in ours.items()):
            return name
    return None


def check_scores(found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Check scores, to the last bit where the environment is known."""
    assert found.dtype == expected.dtype == np.float32
    if known_environment() is None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    else:
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def check_arrays(name: str, opened: Any) -> None:
    """Check the arrays of a tree, to the last bit; ``name`` is what they were recorded under."""
    prefix = f"{name}/"
    expected = {
        key.removeprefix(prefix): value
        for key, value in read(FROZEN / "arrays.json").items()
        if key.startswith(prefix)
    }
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(opened)[0]:
        array = np.asarray(leaf)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": digest,
        }
    assert found == expected


def dataset_arrays(dataset: Dataset) -> dict[str, Any]:
    """All arrays of a dataset."""
    tables = dataset.feature_tables()
    return {
        "items": tables.item,
        "users": tables.user,
        "event_item": dataset.event_item,
        "event_timestamp": dataset.event_timestamp,
        "event_offsets": dataset.event_offsets,
        "event_negatives": dataset.event_negatives,
        "popularity": dataset.popularity,
        "splits": dict(dataset.splits),
    }


def copy_of_run(name: str, folder: Path) -> Path:
    """A copy of a run folder that names the frozen dataset as its own.

    ``config.json`` holds the absolute path that the dataset had where it was made.
    """
    copy = folder / name
    shutil.copytree(FROZEN / name, copy)
    config = read(copy / "config.json")
    config["data"] = str(DATASET)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


def expected_config(name: str) -> Config:
    """The settings that a run was trained with."""
    start, changes = SETTINGS[name]
    then = {
        "model.statistics": False,
        "model.factors": False,
        "model.transitions": False,
        "model.logistic_regression": False,
        "model.statistics_layers": (),
        "model.dropout": 0.0,
        "train.unknown_items": 0.0,
    }
    if start == "dien":
        then["model.auxiliary_weight"] = 1.0
    return with_settings(without_auto(preset(start)), then | changes)


def ranked(ranker: Ranker, request: dict[str, Any]) -> np.ndarray:
    """Scores of the candidates of a request, in their order."""
    history, observe = request["history"], request["observe"]
    if observe is not None:
        ranker.remember(request["user"], history)
        for event in observe:
            ranker.observe(request["user"], event)
        history = None
    ranking = ranker.rank(history, request["candidates"], request["user"], request["context"])
    assert (np.diff(ranking.scores) <= 0).all()
    by_id = dict(zip(ranking.ids, ranking.scores, strict=True))
    return np.array([by_id[candidate] for candidate in request["candidates"]], np.float32)


def test_the_log_can_be_made_again() -> None:
    made = runpy.run_path(str(FROZEN.with_name("made_log.py")))
    assert made["requests"]() == read(FROZEN / "requests.json")
    rows = made["impressions"]()
    with gzip.open(FROZEN / "log.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        assert made["csv_text"](rows) == stream.read()
    for name, text in made["tables"](rows).items():
        assert text == (FROZEN / f"{name}.csv").read_bytes().decode()


def test_the_dataset_opens() -> None:
    dataset = open_dataset(DATASET)
    assert [(feature.name, feature.kind) for feature in dataset.schema.item] == [
        ("item", "categorical"),
        ("category", "categorical"),
        ("tags", "multivalued"),
        ("price", "numeric"),
    ]
    assert [(feature.name, feature.kind) for feature in dataset.schema.user] == [
        ("user", "categorical"),
        ("age", "categorical"),
        ("interests", "multivalued"),
    ]
    assert [(feature.name, feature.kind) for feature in dataset.schema.context] == [
        ("device", "categorical"),
        ("query", "multivalued"),
        ("hour", "numeric"),
    ]
    assert {"", "crème brûlée", "back\\slash", 'a "quoted", item'} <= set(
        dataset.vocabulary("item")
    )
    assert len(dataset.groups()) == 40
    check_arrays("dataset", dataset_arrays(dataset))


@pytest.mark.parametrize("name", RUNS)
def test_settings_of_a_run_are_read(name: str) -> None:
    run = Run.load(FROZEN / name)
    assert run.config == expected_config(name)
    assert run.preset == SETTINGS[name][0]
    assert read_preset_file(FROZEN / name / "config.json") == (run.preset, run.config)
    run.check_fits(open_dataset(DATASET))
    run.check_same_data(open_dataset(DATASET))


@pytest.mark.parametrize("name", RUNS)
def test_the_best_checkpoint_is_restored_bit_for_bit(name: str) -> None:
    step, state = restore_state(FROZEN / name, Run.load(FROZEN / name), open_dataset(DATASET))
    assert step == read(FROZEN / name / "result.json")["best_step"]
    check_arrays(name, state._replace(key=jax.random.key_data(state.key)))


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_scores_a_split_as_before(
    name: str, split: str, recorded: dict[str, np.ndarray]
) -> None:
    check_scores(
        trained_scores(load_run(FROZEN / name, DATASET), split), recorded[f"{name}/{split}"]
    )


@pytest.mark.parametrize("table", ["by_time", "by_history"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_scores_a_table_as_before(
    name: str, table: str, recorded: dict[str, np.ndarray], tmp_path: Path
) -> None:
    file, out = FROZEN / f"{table}.csv", tmp_path / "scored.csv"
    flags = ["--input", str(file), "--out", str(out), "--data", str(DATASET)]
    assert predict.main([str(FROZEN / name), *flags]) == 0
    with out.open(encoding="utf-8", newline="") as stream:
        scores = [np.float32(row["score"]) for row in csv.DictReader(stream)]
    check_scores(np.array(scores), recorded[f"{name}/{table}"])


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("name", [*RUNS, "model.dien"])
def test_candidates_are_ranked_as_before(
    name: str, number: int, rankers: dict[str, Ranker], recorded: dict[str, np.ndarray]
) -> None:
    request = read(FROZEN / "requests.json")[number]
    check_scores(ranked(rankers[name], request), recorded[f"{name}/request {number}"])


def test_weights_of_an_exported_file_are_read_bit_for_bit() -> None:
    exported = read_archive(FROZEN / "model.dien")
    check_arrays("model.dien", exported.weights)
    settings = dataclasses.asdict(expected_config("run_dien"))
    later = ("statistics", "logistic_regression", "factors", "transitions")
    for name in (*later, "statistics_layers"):
        del settings["model"][name]  # these and the next ones did not exist
    del settings["train"]["calibrate"], settings["train"]["click_rate"]
    del settings["train"]["unknown_items"]
    assert exported.manifest["settings"] == json.loads(json.dumps(settings))


def test_a_finished_run_gives_its_result(tmp_path: Path) -> None:
    copy = copy_of_run("run_dien", tmp_path)
    result = resume(copy)
    expected = read(FROZEN / "run_dien" / "result.json")
    assert {name: getattr(result, name) for name in expected} == expected


def test_a_stopped_run_ends_as_one_that_was_not(
    tmp_path: Path, recorded: dict[str, np.ndarray]
) -> None:
    """The state of training is read whole: what is left of the run ends as run_dien did.

    run_dien was trained with all optimisations, so parameters are equal bit for bit only there.
    """
    copy = copy_of_run("run_stopped", tmp_path)
    result = resume(copy)
    expected = read(FROZEN / "run_dien" / "result.json")
    assert (result.steps, result.best_step) == (expected["steps"], expected["best_step"])
    trained = load_run(copy, DATASET)
    assert "total_weight" not in str(jax.tree.structure(trained.batch_stats))
    scores = trained_scores(trained, "test")
    if known_environment() == "python3.11":
        _, state = restore_state(copy, trained.run, trained.dataset)
        check_arrays("run_dien", state._replace(key=jax.random.key_data(state.key)))
        check_scores(scores, recorded["run_dien/test"])
    else:
        np.testing.assert_allclose(
            scores, recorded["run_dien/test"], rtol=0, atol=TRAINED_TOLERANCE
        )
