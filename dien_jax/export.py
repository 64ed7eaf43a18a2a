"""Export a model to a file that needs no dien_jax: the command ``python -m dien_jax.export``."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say


@dataclass(frozen=True)
class Arguments:
    """Export the best checkpoint of a run to one file that can be used without dien_jax.

    The file holds weights, vocabularies and programs (StableHLO, by jax.export) for CPU, NVIDIA GPU
    and TPU. docs/export.md shows how to call them with jax alone. Before the file is written, its
    scores are checked against those of the run. Using an exported file runs its programs: trust it
    like code.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder written by dien_jax.train."""
    out: Path
    """File to write, for example model.dien."""
    data: Path | None = None
    """Dataset folder, for features and vocabularies. Default: the run's own."""
    onnx: Path | None = None
    """ONNX file to write in addition. It scores rows whose histories are padded to the run's
    max_history. Needs the extra onnx."""
    triton: Path | None = None
    """Folder of a model in the model repository of an NVIDIA Triton Inference Server. The ONNX file
    becomes the model's next version. Needs --onnx."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace --out and --onnx even if they are not files that this command wrote."""


def _export(arguments: Arguments) -> None:
    from dien_jax.inference import export_run  # imported here: --help needs no JAX

    report = export_run(**vars(arguments))
    say(f"model: {report['file']} ({report['bytes'] / 1e6:.1f} MB)")
    if "onnx" in report:
        say(f"ONNX: {report['onnx']} ({report['onnx_bytes'] / 1e6:.1f} MB)")
    if "triton" in report:
        say(f"version of the Triton model: {report['triton']}")
    print_result(json.dumps(report), arguments.out)


main = make_main("export", tyro.cli, Arguments, _export)


if __name__ == "__main__":
    sys.exit(main())
