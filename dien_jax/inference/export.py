"""Export of a trained model to one file (:mod:`dien_jax.inference.archive`).

A new file is read back and must score random requests as the run does before it is renamed.
"""

import dataclasses
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dien_kernels.candidates import CHUNK

from dien_jax.data.dataset import table_digests
from dien_jax.data.kinds import KINDS
from dien_jax.data.tables import Batch, batch_features, example_batch, is_live
from dien_jax.errors import UserError, require, writing
from dien_jax.inference import archive
from dien_jax.inference.bucketed_programs import BucketedPrograms, EncodedRequest, History, Slices
from dien_jax.inference.exported_programs import (
    PLATFORMS,
    RECURRENCE,
    described,
    make_exports,
    row_arrays,
)
from dien_jax.inference.loaded_model import LoadedModel, history_buckets, knows_repeats
from dien_jax.inference.onnx import add_version, check_onnx, check_triton, onnx_model, onnx_scores
from dien_jax.runs.folder import versions
from dien_jax.runs.model_card import read_card
from dien_jax.runs.trained import TrainedModel, load_run, scorer
from dien_jax.steps.rank import Programs
from dien_jax.utils.console import stage
from dien_jax.utils.files import atomic_path, check_out
from dien_jax.utils.machine import map_in_order, thread_count

CHECKED_ROWS = 8
CHECKED_CANDIDATES = CHUNK + 8
"""Too many for one call of ``score_candidates``, if there are as many items."""
CHECKED_SLICES = {CHUNK: CHUNK, 2 * CHUNK: 2 * CHUNK}
"""Slices of candidates with which both programs that score candidates are called."""


def export_run(
    run_dir: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    onnx: str | Path | None = None,
    *,
    triton: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export the best checkpoint of a run, and check the scores of the file.

    >>> from dien_jax.inference import export_run
    >>> report = export_run("runs/first", "model.dien")
    >>> report["file"], report["largest_difference"] < 1e-5
    ('model.dien', True)

    Args:
      run_dir: run folder.
      out: file to write.
      data: dataset folder, for features and vocabularies; None for the run's own.
      onnx: ONNX file to write in addition; None for none.
      triton: folder of a Triton model; the ONNX file becomes its next version.
      overwrite: replace existing files even if this function did not write them.

    Returns:
      ``file``, ``bytes``, ``checked_rows``, ``checked_candidates`` and ``largest_difference``;
      with ``onnx`` also ``onnx``, ``onnx_bytes`` and ``onnx_largest_difference``; with ``triton``
      also ``triton``, the folder of the version.

    Raises:
      UserError: if the run or its data cannot be used, a file cannot be written, an extra is not
        installed, or scores differ. Nothing is written then, unless only ``triton`` failed.
    """
    run_dir, out = Path(run_dir), Path(out)
    options: Any = {"overwrite": overwrite, "inputs": (run_dir, data)}
    check_out(out, is_ours=archive.is_archive, **options)
    require("export", "an exported model")
    if triton is not None:
        if onnx is None:
            raise UserError("--triton needs --onnx, whose file it serves")
        check_triton(Path(triton))
    if onnx is not None:
        onnx = Path(onnx)
        if os.path.realpath(onnx) == os.path.realpath(out):
            raise UserError(f"the ONNX file must have another name than the model, got {out} twice")
        check_onnx(onnx, **options)
    trained = load_run(run_dir, data)
    with writing(out), ExitStack() as files:
        partial = files.enter_context(atomic_path(out))
        with stage(f"exporting {run_dir}"):
            _write(partial, trained, read_card(run_dir))
        with stage("checking its scores"):
            report = {"file": str(out), "bytes": partial.stat().st_size}
            report |= check_export(partial, trained)
        if isinstance(onnx, Path):
            with stage("converting to ONNX and checking its scores"), writing(onnx):
                partial = files.enter_context(atomic_path(onnx))
                partial.write_bytes(onnx_model(trained))
                report |= {"onnx": str(onnx), "onnx_bytes": partial.stat().st_size}
                batch = random_batch(trained)
                difference = onnx_scores(partial, row_arrays(batch)) - run_scores(trained, batch)
                largest = _checked("the ONNX file's scores", float(np.abs(difference).max()))
                report["onnx_largest_difference"] = largest
    if triton is not None and onnx is not None:
        report["triton"] = str(add_version(Path(triton), Path(onnx)))
    return report


def _write(file: Path, trained: TrainedModel, card: str) -> None:
    run, dataset = trained.run, trained.dataset
    weights, programs = make_exports(trained)
    shapes = {
        name: {
            "inputs": described(jax.tree.unflatten(program.in_tree, program.in_avals)[0][1]),
            "outputs": described(jax.tree.unflatten(program.out_tree, program.out_avals)),
        }
        for name, program in programs.items()
    }
    steps = shapes["read_history"]["inputs"]["history"]["shape"][0]
    buckets = history_buckets(run.config) if isinstance(steps, str) else (steps,)
    manifest = {
        "calling_convention_version": programs["score_rows"].calling_convention_version,
        "versions": versions(),
        "platforms": PLATFORMS,
        "recurrence": RECURRENCE,
        "preset": run.preset,
        "seed": run.seed,
        "step": trained.step,
        "settings": dataclasses.asdict(run.config),
        "data_digest": run.data_digest,
        "tables": table_digests(dataset, statistics=run.config.model.statistics),
        "schema": run.schema,
        "max_history": run.config.train.max_history,
        "history_buckets": buckets,
        "knows_repeats": knows_repeats(dataset),
        "programs": shapes,
        "weights": {name: described(array) for name, array in weights.items()},
    }
    vocabularies = {
        name: dataset.vocabulary(name) for name in archive.input_features(dataset.schema)
    }
    parts = (manifest, dataset.schema, vocabularies, weights, programs)
    of_lists = trained.list_offsets, trained.list_weights
    archive.write_archive(file, archive.ExportedModel(*parts, *of_lists), card)


def check_export(file: Path, trained: TrainedModel) -> dict[str, Any]:
    """Compare the scores of an exported file with those of its run; raise if they differ."""
    exported, options = archive.read_archive(file), _quickest()
    model, batch = LoadedModel.from_export(exported), random_batch(trained)
    schema = trained.dataset.schema
    history, user = np.asarray(batch.history)[-1], np.asarray(batch.user)[-1:]
    last: Any = jax.tree.map(lambda column: column[-1:], batch.columns)
    of_request = {feature.name: last[feature.name] for feature in schema.request}
    of_events = {f.name: jax.tree.map(lambda column: column[0], last[f.name]) for f in schema.event}
    before, event = (
        jax.tree.map(lambda column, place=place: column[place], of_events)
        for place in (slice(-1), -1)
    )
    candidates = np.arange(schema.num_items, dtype=np.int32)[-CHECKED_CANDIDATES:]

    def ranked(model: LoadedModel, slices: Slices | None = None) -> np.ndarray:
        quick = Programs(*(p and jax.jit(p, compiler_options=options) for p in model.programs))
        programs = BucketedPrograms(model._replace(programs=quick), slices)
        shorter = History(history[:-1], before)
        programs.encode([shorter])
        end = int(history[-1]), len(history) - 1, event
        longer = History(history, of_events, programs.extend(shorter.interests, *end))
        requests = [
            EncodedRequest(History(history, of_events), user, of_request, candidates),
            EncodedRequest(longer, user, of_request, candidates[:1]),
        ]
        return np.concatenate(programs.score(requests))

    def rows() -> np.ndarray:
        score_rows = jax.jit(exported.programs["score_rows"].call, compiler_options=options)
        return np.asarray(score_rows(*model.arguments, row_arrays(batch)))

    calls: list[Callable[[], np.ndarray]] = [
        partial(ranked, model, CHECKED_SLICES),
        partial(ranked, LoadedModel.from_run(trained)),
        rows,
        partial(run_scores, trained, batch),
    ]  # most of their time is compilation
    scores = [*map_in_order(lambda call: call(), calls, thread_count())]
    differences = np.concatenate([scores[0] - scores[1], scores[2] - scores[3]])
    return {
        "checked_rows": CHECKED_ROWS,
        "checked_candidates": len(candidates),
        "largest_difference": _checked("the file's scores", float(np.abs(differences).max())),
    }


def random_batch(trained: TrainedModel) -> Batch:
    """Return random requests, with histories of all lengths from 0 to the run's maximum."""
    schema, longest = trained.dataset.schema, trained.run.config.train.max_history
    rng = np.random.default_rng(0)
    blank = example_batch(schema, batch_size=CHECKED_ROWS, steps=longest)
    lengths = np.linspace(0, longest, CHECKED_ROWS).astype(np.int32)
    live = is_live(lengths, longest)

    def rows(size: int, like: Any) -> np.ndarray:
        return rng.integers(0, size, like.shape).astype(np.int32)

    columns = {
        feature.name: KINDS[feature.kind].random(feature, rng, *axes)
        for feature, axes in batch_features(schema, CHECKED_ROWS, longest)
    }
    return blank._replace(
        history=np.where(live, rows(schema.num_items, blank.history), 0),
        lengths=lengths,
        item=rows(schema.num_items, blank.item),
        user=rows(schema.num_users, blank.user),
        weight=np.ones_like(blank.weight),
        columns=columns,
    )


def run_scores(trained: TrainedModel, batch: Batch) -> np.ndarray:
    """Return scores ``[B]`` as computed by ``python -m dien_jax.predict``."""
    predict: Any = scorer(trained, in_use=True)
    arguments, known = (*predict.args, batch), predict.keywords
    compiled = predict.func.lower(*arguments, **known).compile(_quickest())
    return np.asarray(compiled(*arguments, **known))


def _quickest() -> dict[str, Any] | None:
    """Return compiler options that halve the time to compile on a CPU; programs run slower."""
    is_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 0} if is_cpu else None


def _checked(subject: str, difference: float) -> float:
    # A few float32 roundings; other devices round the operands of matmuls to fewer bits.
    tolerance = 1e-5 if jax.default_backend() == "cpu" else 5e-3
    if not difference <= tolerance:  # NaN fails too
        raise UserError(
            f"{subject} differ from the run's by {difference:.2g}, expected at most "
            f"{tolerance:.2g}; nothing was written"
        )
    return difference
