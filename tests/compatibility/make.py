"""Make the folder ``commit_9d7d61d``, which holds what the code of that commit wrote and computed.

    python make.py make --checkout CHECKOUT --out commit_9d7d61d --name ENVIRONMENT
    python make.py score --checkout CHECKOUT --out commit_9d7d61d --name ENVIRONMENT
    python make.py compare --checkout CHECKOUT --out commit_9d7d61d

CHECKOUT is a working tree of commit 9d7d61d; its packages come before installed ones. The Python
that runs this script needs what that commit depends on, with the extras ``data`` and ``export``.

``make`` writes the folder, which must not exist.

    log.csv.gz          the log of impressions
    dataset/            ``dien_jax.prepare impressions`` of the log
    run_dien/           ``dien_jax.train dien``, finished
    run_din/            ``dien_jax.train din``, finished
    run_stopped/        the run of run_dien, stopped by a signal after ``STOPPED_AFTER`` steps
    model.dien          ``dien_jax.export`` of run_dien
    by_time.csv         input of ``dien_jax.predict``: histories are those of the dataset
    by_history.csv      input of ``dien_jax.predict``: histories are a column
    requests.json       requests for a ranker
    arrays.json         dtype, shape and sha256 of every array that opening these files gives
    scores.npz          scores, float32, under the names ENVIRONMENT/WHAT
    environment.json    what scores depend on beside the files, by ENVIRONMENT

Everything is made in a folder of a fixed name in the system's folder for temporary files, because
``config.json`` and ``result.json`` of a run hold the absolute path of its dataset. TensorBoard
events and pictures are left out.

``score`` computes the scores again and adds them under the name of another environment.
``compare`` prints the largest differences between scores of this process and the recorded ones.

The folder was made by Python 3.11 as "python3.11". The others were added by

    3.11, "python3.11 quick", JAX_DISABLE_MOST_OPTIMIZATIONS=1
                              XLA_FLAGS=--xla_cpu_use_fusion_emitters=false
    3.13, "python3.13"
    3.13, "python3.13 quick", JAX_DISABLE_MOST_OPTIMIZATIONS=1

which is how ``tests/conftest.py`` has programs compiled where speed does not matter.
"""

import argparse
import csv
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from made_log import csv_text, impressions, requests, tables

COMMIT = "9d7d61d"
WORK_FOLDER = f"dien_jax_{COMMIT}"
RUNS = ("run_dien", "run_din")
TABLES = ("by_time", "by_history")
STOPPED_AFTER = 100

FEATURES = [
    *("--item-features", "category", "tags:multivalued", "price:numeric"),
    *("--user-features", "age", "interests:multivalued"),
    *("--context-features", "device", "query:multivalued", "hour:numeric"),
]
SIZES = [
    "--model.embedding-size=3",
    "--model.hidden-size=5",
    "--model.attention-layers=6",
    "--model.auxiliary-layers=6",
    *("--model.layers", "8", "4"),
    "--train.batch-size=16",
    "--train.epochs=4",
    "--train.patience=0",
    "--train.log-every=8",
    "--train.max-history=24",
    "--train.buckets=8",
    "--optim.learning-rate=0.02",
]
SETTINGS = {
    "run_dien": ["dien", *SIZES, "--seed=1"],
    "run_din": ["din", *SIZES, "--seed=2", "--optim.name=adamw", "--optim.weight-decay=0.01"],
}


def command(checkout: Path, module: str, *arguments: str) -> None:
    """Run a command of the checkout in the current folder.

    JAX writes names of source files into exported programs; here they begin at the package.
    """
    path = os.pathsep.join([str(checkout), str(checkout / "kernels")])
    folders = "JAX_HLO_SOURCE_FILE_CANONICALIZATION_REGEX"
    subprocess.run(
        [sys.executable, "-m", f"dien_jax.{module}", *arguments],
        env={**os.environ, "PYTHONPATH": path, folders: "^.*/(?=(dien_jax|dien_kernels|flax)/)"},
        check=True,
    )


def stopped_run(folder: Path) -> None:
    """Write a run that a signal stopped: settings of run_dien, no result, one checkpoint."""
    from dien_jax.checkpoint import Checkpoints
    from dien_jax.dataset import open_dataset
    from dien_jax.loop import Interrupted, Trainer
    from dien_jax.reporting import Reporter
    from dien_jax.run_folder import Run

    run, dataset = Run.load(Path("run_dien")), open_dataset("dataset")
    run.save(folder)

    def stop_signal() -> int | None:
        return signal.SIGTERM if trainer.progress.step >= STOPPED_AFTER else None

    trainer = Trainer(run, dataset, Checkpoints(folder / "checkpoints"), stop_signal)
    try:
        with Reporter(folder, total_steps=trainer.total_steps) as reporter:
            trainer.run(reporter)
    except Interrupted:
        return
    raise RuntimeError("the run was not stopped")


def make(checkout: Path, out: Path, environment: str) -> None:
    """Write the whole folder; the environment is the name under which scores are recorded."""
    if out.exists():
        raise FileExistsError(f"{out} exists")
    work = Path(tempfile.gettempdir()) / WORK_FOLDER
    work.mkdir()
    try:
        os.chdir(work)
        rows = impressions()
        with gzip.GzipFile("log.csv.gz", "wb", mtime=0) as stream:
            stream.write(csv_text(rows).encode())
        for name, text in tables(rows).items():
            Path(f"{name}.csv").write_text(text, encoding="utf-8")
        write_json(Path("requests.json"), requests())
        command(checkout, "prepare", "impressions", "log.csv.gz", "--out", "dataset", *FEATURES)
        for run, settings in SETTINGS.items():
            command(checkout, "train", *settings, "--data", "dataset", "--run-dir", run)
        command(checkout, "export", "run_dien", "--out", "model.dien")
        stopped_run(Path("run_stopped"))
        for unwanted in (*Path().glob("run_*/tensorboard"), *Path().glob("run_*/curves.png")):
            shutil.rmtree(unwanted) if unwanted.is_dir() else unwanted.unlink()
        write_json(Path("arrays.json"), arrays(Path()))
        score(Path(), environment)
        check_predictions(checkout, environment)
        os.chdir(work.parent)
        shutil.copytree(work, out)
    finally:
        os.chdir(work.parent)
        shutil.rmtree(work)


def check_predictions(checkout: Path, environment: str) -> None:
    """Check that ``dien_jax.evaluate --predictions`` writes the recorded scores."""
    with np.load("scores.npz") as archive:
        recorded = {name: archive[name] for name in archive.files}
    for run in RUNS:
        for split in ("valid", "test"):
            command(checkout, "evaluate", run, "--split", split, "--predictions", "scores.csv")
            written = column("score", Path("scores.csv"))
            expected = recorded[f"{environment}/{run}/{split}"]
            if written.tobytes() != expected.tobytes():
                raise RuntimeError(f"the file of predictions of {run}, {split} differs")
            Path("scores.csv").unlink()


def column(name: str, file: Path) -> np.ndarray:
    """A column of numbers of a CSV file, float32; nine digits keep every bit."""
    with file.open(encoding="utf-8", newline="") as stream:
        return np.array([np.float32(row[name]) for row in csv.DictReader(stream)])


def arrays(folder: Path) -> dict[str, dict[str, Any]]:
    """Dtype, shape and sha256 of every array that the files hold, as the library opens them."""
    import jax
    from dien_jax.artifact import read_artifact
    from dien_jax.dataset import open_dataset
    from dien_jax.run_folder import Run
    from dien_jax.trained import restore_state

    dataset = open_dataset(folder / "dataset")
    opened: dict[str, Any] = {
        "dataset": {
            "items": dataset.item_tables(),
            "users": dataset.user_tables(),
            "event_item": dataset.event_item,
            "event_timestamp": dataset.event_timestamp,
            "event_offsets": dataset.event_offsets,
            "event_negatives": dataset.event_negatives,
            "popularity": dataset.popularity,
            "splits": dataset.splits,
        },
        "model.dien": read_artifact(folder / "model.dien").weights,
    }
    for name in RUNS:
        _, state = restore_state(folder / name, Run.load(folder / name), dataset)
        opened[name] = state._replace(key=jax.random.key_data(state.key))
    paths, _ = jax.tree_util.tree_flatten_with_path(opened)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    return {name: described(np.asarray(leaf)) for name, leaf in sorted(named.items())}


def described(array: np.ndarray) -> dict[str, Any]:
    """Dtype, shape and sha256 of an array."""
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def scores(folder: Path) -> dict[str, np.ndarray]:
    """All scores, float32, by what was scored."""
    from dien_jax.exported_ranker import load_ranker
    from dien_jax.trained import load_trained

    from dien_jax.evaluate import trained_scores
    from dien_jax.predict import Arguments, predict_table

    dataset = folder / "dataset"
    found = {}
    for run in RUNS:
        trained = load_trained(folder / run, dataset)
        for split in ("valid", "test"):
            found[f"{run}/{split}"] = trained_scores(trained, split)
        with tempfile.TemporaryDirectory() as temporary:
            for table in TABLES:
                file, out = folder / f"{table}.csv", Path(temporary) / "scored.csv"
                predict_table(Arguments(folder / run, input=file, out=out, data=dataset))
                found[f"{run}/{table}"] = column("score", out)
    rankers = {run: load_ranker(folder / run, dataset) for run in RUNS}
    rankers["model.dien"] = load_ranker(folder / "model.dien")
    for name, ranker in rankers.items():
        for number, request in enumerate(read_json(folder / "requests.json")):
            found[f"{name}/request {number}"] = ranked(ranker, request)
    return found


def ranked(ranker: Any, request: dict[str, Any]) -> np.ndarray:
    """Scores of the candidates of a request, in their order."""
    history, observe = request["history"], request["observe"]
    if observe is not None:
        ranker.remember(request["user"], history)
        for event in observe:
            ranker.observe(request["user"], event)
        history = None
    ranking = ranker.rank(history, request["candidates"], request["user"], request["context"])
    by_id = dict(zip(ranking.ids, ranking.scores, strict=True))
    return np.array([by_id[candidate] for candidate in request["candidates"]], np.float32)


def described_environment() -> dict[str, Any]:
    """What scores depend on beside the files: versions, processor, settings of the compiler."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    settings = jax.config.values
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        **processor(),
        "processors": len(os.sched_getaffinity(0)),
        "xla_flags": os.environ.get("XLA_FLAGS", "").split(),
        "disable_most_optimizations": settings.get("jax_disable_most_optimizations", False),
    }


def processor() -> dict[str, Any]:
    """Model and instruction sets of the processor, as Linux tells them."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    names = ("vendor_id", "cpu family", "model", "model name")
    return {
        "processor": {name: told.get(name) for name in names},
        "processor_flags": sorted(told.get("flags", "").split()),
    }


def score(folder: Path, name: str) -> None:
    """Add the scores of this process to the folder."""
    file, environments = folder / "scores.npz", folder / "environment.json"
    recorded, known = {}, {}
    if file.exists():
        with np.load(file) as archive:
            recorded = {one: archive[one] for one in archive.files}
        known = read_json(environments)
    if name in known:
        raise ValueError(f"{file} has scores of {name!r} already")
    recorded |= {f"{name}/{what}": values for what, values in scores(folder).items()}
    known[name] = described_environment()
    np.savez_compressed(file, **recorded)
    write_json(environments, known)


def compare(folder: Path) -> None:
    """Print how far the scores of this process are from the recorded ones."""
    found, known = scores(folder), read_json(folder / "environment.json")
    with np.load(folder / "scores.npz") as archive:
        for name in known:
            differences = {
                what: float(np.abs(values.astype(float) - archive[f"{name}/{what}"]).max())
                for what, values in found.items()
            }
            same = sum(
                values.tobytes() == archive[f"{name}/{what}"].tobytes()
                for what, values in found.items()
            )
            worst = max(differences, key=differences.__getitem__)
            print(
                f"{name}: {same} of {len(found)} arrays of equal bits; "
                f"largest difference {differences[worst]:.3g} ({worst})"
            )


def read_json(file: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, value: Any) -> None:
    """Write an indented JSON file."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def use(checkout: Path) -> None:
    """Import the packages of the checkout, whatever else is installed.

    Raises:
      RuntimeError: when the checkout is of another commit, or other packages would be imported.
    """
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    head = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    if not head.startswith(COMMIT):
        raise RuntimeError(f"{checkout} is of commit {head}, expected {COMMIT}")
    sys.path[:0] = [str(checkout), str(checkout / "kernels")]
    import dien_kernels

    import dien_jax

    for package in (dien_jax, dien_kernels):
        if not Path(str(package.__file__)).is_relative_to(checkout):
            raise RuntimeError(f"{package.__name__} was imported from {package.__file__}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("make", "score", "compare"))
    parser.add_argument("--checkout", type=Path, required=True, help=f"of commit {COMMIT}")
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument("--name", help="name of the environment that is added")
    arguments = parser.parse_args()
    if arguments.name is None and arguments.action != "compare":
        parser.error(f"{arguments.action} needs --name")
    checkout, out = arguments.checkout.resolve(), arguments.out.resolve()
    use(checkout)
    if arguments.action == "make":
        make(checkout, out, arguments.name)
    elif arguments.action == "score":
        score(out, arguments.name)
    else:
        compare(out)


if __name__ == "__main__":
    main()
