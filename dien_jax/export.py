"""A trained model as one file that needs no dien_jax: ``python -m dien_jax.export``.

    python -m dien_jax.export RUN --out model.dien [--onnx model.onnx]

The file (:mod:`dien_jax.inference.archive`) holds the weights of the run's best checkpoint, its
vocabularies and its programs by ``jax.export``
(:mod:`dien_jax.inference.exported_programs`), for CPU, NVIDIA GPU and TPU at once,
batch and history of any size. :class:`dien_jax.ExportedRanker` ranks with it,
docs/export.md reads it with jax and numpy alone. Before it gets its name the file is read back and
scores made-up requests, which must agree with the run's own.

Standard output carries one JSON object: what was written, how large it is, what was checked.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from dien_jax.errors import UserError
from dien_jax.inference.archive import input_features, write_artifact
from dien_jax.inference.export import _told, check_artifact, check_onnx
from dien_jax.inference.exported_programs import (
    PLATFORMS,
    RECURRENCE,
    described,
    make_exports,
)
from dien_jax.inference.loaded_model import history_buckets
from dien_jax.inference.onnx import onnx_model, require_onnx
from dien_jax.runs.folder import versions
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.utils.command import run_command
from dien_jax.utils.console import say, stage
from dien_jax.utils.extras import require


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
    require("export", "an exported model")
    if arguments.onnx is not None:
        _check_out("--onnx", arguments.onnx)
        if arguments.onnx.absolute() == arguments.out.absolute():
            raise UserError(f"--out and --onnx are both {arguments.out}; give each its own name")
        require_onnx()
    trained = load_run(arguments.run_dir, arguments.data)
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


def _write(file: Path, trained: TrainedModel) -> None:
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


def _check_out(flag: str, file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder; expected the name of a file")
    if not file.absolute().parent.is_dir():
        raise UserError(f"{flag} {file}: there is no folder {file.parent}; make it first")


def _export(arguments: Arguments) -> None:
    told = export_run(arguments)
    say(f"model: {told['file']} ({told['bytes'] / 1e6:.1f} MB)")
    if "onnx" in told:
        say(f"ONNX: {told['onnx']} ({told['onnx_bytes'] / 1e6:.1f} MB)")
    print(json.dumps(told))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.export"), _export
    )


if __name__ == "__main__":
    sys.exit(main())
