"""A trained model as one file that needs no dien_jax: ``python -m dien_jax.export``.

    python -m dien_jax.export RUN --out model.dien [--onnx model.onnx]

The file (:mod:`dien_jax.artifact`) holds the weights of the run's best checkpoint, its
vocabularies and its programs by ``jax.export`` (:mod:`dien_jax.portable`), for CPU, NVIDIA GPU and
TPU at once, batch and history of any size. :class:`dien_jax.ExportedRanker` ranks with it,
docs/export.md reads it with jax and numpy alone. Before it gets its name the file is read back and
scores made-up requests, which must agree with the run's own.

Standard output carries one JSON object: what was written, how large it is, what was checked.
"""

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from dien_jax.artifact import input_features, read_artifact, require_flatbuffers, write_artifact
from dien_jax.base_ranker import BaseRanker
from dien_jax.compiled import keep_compiled
from dien_jax.errors import UserError
from dien_jax.exported_ranker import exported_model
from dien_jax.onnx_file import onnx_model, onnx_scores, require_onnx
from dien_jax.portable import (
    PLATFORMS,
    RECURRENCE,
    described,
    make_exports,
    plain_context,
)
from dien_jax.prepare.progress import say, stage
from dien_jax.ranker import history_buckets, ranked_model
from dien_jax.run_folder import atomic_path, versions
from dien_jax.schema import Batch, Feature, MultiValued
from dien_jax.step import device_tables, make_predict_step
from dien_jax.trained import Trained, load_trained

CHECKED_ROWS = 8
CHECKED_CANDIDATES = 40
"""More than one program takes at once, where there are as many items."""
TOLERANCE = {"cpu": 1e-5}
"""Largest difference of two probabilities: a few roundings of float32."""
TOLERANCE_ELSEWHERE = 5e-3
"""Where matmuls round their operands to fewer bits."""


@dataclass(frozen=True)
class Arguments:
    """Write the best checkpoint of a run as one file that needs no dien_jax to be used.

    It holds weights, vocabularies and programs (StableHLO, by jax.export) for CPU, NVIDIA GPU and
    TPU; docs/export.md tells how to call them from jax alone. Scores are checked against the run's
    before the file appears.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    out: Path
    """The file to write, model.dien say."""
    data: Path | None = None
    """Dataset folder, for features and vocabularies; the run's own when not given."""
    onnx: Path | None = None
    """Write the scoring of rows as an ONNX file too, histories padded to the run's max_history
    (with '.[onnx]')."""


def export_run(arguments: Arguments) -> dict[str, Any]:
    """Writes the file, or the two; returns what is told of them.

    Raises:
      UserError: when the run, its data or a file to write is at fault, something to install is
        missing, or scores differ.
    """
    _check_out("--out", arguments.out)
    require_flatbuffers()
    if arguments.onnx is not None:
        _check_out("--onnx", arguments.onnx)
        if arguments.onnx.absolute() == arguments.out.absolute():
            raise UserError(f"--out and --onnx are both {arguments.out}; give each its own name")
        require_onnx()
    trained = load_trained(arguments.run_dir, arguments.data)
    told: dict[str, Any] = {}
    with ExitStack() as files:
        partial = files.enter_context(_told("--out", arguments.out))
        with stage(f"exporting {arguments.run_dir}"):
            _write(partial, trained)
        with stage("checking its scores"):
            told |= {"file": str(arguments.out), "bytes": partial.stat().st_size}
            told |= check_artifact(partial, trained)
        if arguments.onnx is not None:
            partial = files.enter_context(_told("--onnx", arguments.onnx))
            with stage("converting to ONNX, and checking its scores"):
                partial.write_bytes(onnx_model(trained))
                told |= {"onnx": str(arguments.onnx), "onnx_bytes": partial.stat().st_size}
                told["onnx_largest_difference"] = check_onnx(partial, trained)
    return told


def _write(file: Path, trained: Trained) -> None:
    run, dataset = trained.run, trained.dataset
    weights, programs = make_exports(trained)
    manifest = {
        "calling_convention_version": programs["score_rows"].calling_convention_version,
        "versions": versions(),
        "platforms": PLATFORMS,
        "recurrence": RECURRENCE,
        "preset": run.preset,
        "seed": run.seed,
        "step": trained.step,
        "settings": dataclasses.asdict(run.config),
        "schema": run.schema,
        "max_history": run.config.train.max_history,
        "history_buckets": history_buckets(run.config),
        "programs": {
            name: {
                "inputs": described(jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1]),
                "outputs": described(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
            }
            for name, exported in programs.items()
        },
        "weights": {name: described(array) for name, array in weights.items()},
    }
    vocabularies = {name: dataset.vocabulary(name) for name in input_features(dataset.schema)}
    write_artifact(file, manifest, programs, weights, vocabularies)


def check_artifact(file: Path, trained: Trained) -> dict[str, Any]:
    """Compares scores of a file with those of the run it was made of, on made-up requests.

    Returns:
      How many ``checked_rows`` and ``checked_candidates``, and their ``largest_difference``.

    Raises:
      UserError: when the file cannot be read, or scores differ by more than roundings.
    """
    artifact = read_artifact(file)
    batch = made_up(trained)
    score_rows = jax.jit(artifact.programs["score_rows"].call)
    model = exported_model(artifact)
    found = np.asarray(score_rows(*model.arguments, inputs_of(batch)))
    differences = [np.abs(found - scores_of_run(trained, batch)).max()]

    own, exported = BaseRanker(ranked_model(trained)), BaseRanker(model)
    dataset, length = trained.dataset, int(batch.lengths[-1])
    items, users = dataset.vocabulary("item"), dataset.vocabulary("user")
    history = [items[row] for row in np.asarray(batch.history)[-1, :length]]
    candidates = items[-CHECKED_CANDIDATES:]
    context = {feature.name: _made_up_value(trained, feature) for feature in dataset.schema.context}
    for ranker in (own, exported):
        ranker.remember("", history[:-1])
        ranker.observe("", history[-1])
    for past, user, count in ((history, users[-1], len(candidates)), (None, "", 1)):
        requested = (past, candidates[:count], user, context)
        wanted, got = (one.rank(*requested) for one in (own, exported))
        scores = dict(zip(got.ids, got.scores, strict=True))
        differences += [
            abs(scores[name] - score) for name, score in zip(wanted.ids, wanted.scores, strict=True)
        ]
    return {
        "checked_rows": CHECKED_ROWS,
        "checked_candidates": len(candidates),
        "largest_difference": _agreed("the file's scores", max(map(float, differences))),
    }


def check_onnx(file: Path, trained: Trained) -> float:
    """The largest difference of an ONNX file's scores to those of the run, on made-up requests.

    Raises:
      UserError: when scores differ by more than roundings.
    """
    batch = made_up(trained)
    found = onnx_scores(file, inputs_of(batch))
    difference = float(np.abs(found - scores_of_run(trained, batch)).max())
    return _agreed("the ONNX file's scores", difference)


def made_up(trained: Trained) -> Batch:
    """Some requests: histories of every length from none to the run's longest, any ids."""
    schema, longest = trained.dataset.schema, trained.run.config.train.max_history
    rng = np.random.default_rng(0)
    lengths = np.linspace(0, longest, CHECKED_ROWS).astype(np.int32)

    def rows(size: int | None, *shape: int) -> np.ndarray:
        return rng.integers(0, size, shape).astype(np.int32)

    def values(feature: Feature) -> Any:
        if feature.kind == "numeric":
            return rng.normal(size=CHECKED_ROWS).astype(np.float32)
        if feature.kind == "categorical":
            return rows(feature.size, CHECKED_ROWS)
        assert feature.max_values is not None
        several = rows(feature.size, CHECKED_ROWS, feature.max_values)
        return MultiValued(several, rows(feature.max_values + 1, CHECKED_ROWS))

    live = np.arange(longest) < lengths[:, None]
    one = np.ones(CHECKED_ROWS, np.float32)
    return Batch(
        history=np.where(live, rows(schema.num_items, CHECKED_ROWS, longest), 0).astype(np.int32),
        lengths=lengths,
        item=rows(schema.num_items, CHECKED_ROWS),
        user=rows(schema.num_users, CHECKED_ROWS),
        label=one,
        weight=one,
        context={feature.name: values(feature) for feature in schema.context},
    )


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What ``score_rows`` reads of a batch."""
    return {
        "history": batch.history,
        "lengths": batch.lengths,
        "item": batch.item,
        "user": batch.user,
        "context": plain_context(batch.context),
    }


def scores_of_run(trained: Trained, batch: Batch) -> np.ndarray:
    """Scores ``[B]`` as ``python -m dien_jax.evaluate`` has them."""
    config, dataset = trained.run.config, trained.dataset
    step = make_predict_step(config, dataset.schema)
    tables = device_tables(dataset, config)
    return np.asarray(step(trained.params, trained.batch_stats, tables, batch))


def _made_up_value(trained: Trained, feature: Feature) -> Any:
    if feature.kind == "numeric":
        return feature.mean
    values = trained.dataset.vocabulary(feature.name)
    return values[-1] if feature.kind == "categorical" else values[-2:]


def _agreed(what: str, difference: float) -> float:
    most = TOLERANCE.get(jax.default_backend(), TOLERANCE_ELSEWHERE)
    if not difference <= most:  # NaN is no agreement either
        raise UserError(
            f"{what} differ from the run's by {difference:.2g}, expected at most {most:.2g}; "
            f"nothing was written"
        )
    return difference


def _check_out(flag: str, file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder; expected the name of a file")
    if not file.absolute().parent.is_dir():
        raise UserError(f"{flag} {file}: there is no folder {file.parent}; make it first")


@contextmanager
def _told(flag: str, file: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``file`` in the end."""
    try:
        with atomic_path(file) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be written: {error.strerror or error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    keep_compiled()
    try:
        arguments = tyro.cli(Arguments, args=argv, prog="python -m dien_jax.export")
        told = export_run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    say(f"model: {told['file']} ({told['bytes'] / 1e6:.1f} MB)")
    if "onnx" in told:
        say(f"ONNX: {told['onnx']} ({told['onnx_bytes'] / 1e6:.1f} MB)")
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
