"""The file that ``python -m dien_jax.export`` writes: a zip archive that holds a whole model.

    manifest.json                 format version, versions, settings, features, and the inputs and
                                  outputs of every program
    programs/<name>.stablehlo     a program, as ``jax.export`` serialises it
    weights/<name>.npy            an array, shared by all programs
    vocabularies/<feature>.json   raw values of the ids, users and context features that programs
                                  take; entry k is that of row k, entry 0 the unknown one's

docs/export.md reads one without this package. The archive's checksums tell damage.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from dien_jax.data.metadata import schema_from_json
from dien_jax.data.schema import Schema
from dien_jax.errors import UserError
from dien_jax.utils.extras import require

FORMAT = "dien_jax.export"
FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_PROGRAMS, _WEIGHTS, _VOCABULARIES = (
    "programs/{}.stablehlo",
    "weights/{}.npy",
    "vocabularies/{}.json",
)


@dataclass(frozen=True)
class Artifact:
    """What such a file holds.

    Attributes:
      manifest: ``manifest.json`` as parsed.
      schema: the features.
      vocabularies: raw values by feature.
      weights: arrays by name.
      programs: by name.
    """

    manifest: dict[str, Any]
    schema: Schema
    vocabularies: dict[str, list[str]]
    weights: dict[str, np.ndarray]
    programs: dict[str, export.Exported]

    def vocabulary(self, feature: str) -> list[str]:
        """Raw values of a feature that programs take; entry k is that of row k."""
        return self.vocabularies[feature]


def input_features(schema: Schema) -> list[str]:
    """Features whose rows programs take, and whose vocabularies an artifact therefore holds."""
    of_context = [feature.name for feature in schema.context if feature.size is not None]
    return ["item", "user", *of_context]


def write_artifact(
    file: Path,
    manifest: dict[str, Any],
    programs: dict[str, export.Exported],
    weights: dict[str, np.ndarray],
    vocabularies: dict[str, list[str]],
) -> None:
    """Writes the archive; ``manifest`` lacks what is said here: format and version.

    Raises:
      UserError: without what ``jax.export`` serialises with.
      OSError: when the file cannot be written.
    """
    require("export", "an exported model")
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}
    texts = {
        _MANIFEST: json.dumps(manifest, indent=2, allow_nan=False).encode(),
        **{_PROGRAMS.format(name): bytes(one.serialize()) for name, one in programs.items()},
        **{
            _VOCABULARIES.format(name): json.dumps(values, indent=0).encode()
            for name, values in vocabularies.items()
        },
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in texts.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
        for name, array in weights.items():  # float32 hardly compresses
            info = zipfile.ZipInfo(_WEIGHTS.format(name))
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def read_artifact(file: Path) -> Artifact:
    """Reads and checks all of an archive.

    Raises:
      UserError: when it is missing, another kind of file, cut short, damaged, of a newer format
        or of programs that this JAX does not read.
    """
    if not file.is_file():
        what = "is not a file" if file.exists() else "does not exist"
        raise UserError(f"{file} {what}; expected what python -m dien_jax.export wrote")
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file}: expected what python -m dien_jax.export wrote, found another kind of file, "
            f"or one that was cut short: {error}"
        ) from error
    with archive:
        manifest = _read_manifest(file, archive)
        require("export", "an exported model")
        with _told(file):
            schema = schema_from_json(manifest["schema"])
            vocabularies = {
                name: _vocabulary(archive, name, schema) for name in input_features(schema)
            }
            programs = {name: _program(archive, name) for name in manifest["programs"]}
            weights = {name: _array(archive, name) for name in manifest["weights"]}
    return Artifact(manifest, schema, vocabularies, weights, programs)


def _read_manifest(file: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if _MANIFEST not in archive.namelist():
        raise UserError(f"{file}: not what python -m dien_jax.export wrote: no {_MANIFEST} inside")
    with _told(file):
        manifest = json.loads(archive.read(_MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{file}: not what python -m dien_jax.export wrote: its {_MANIFEST} should have "
            f"format {FORMAT!r}"
        )
    version = manifest.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise UserError(
            f"{file}: has format version {version!r}, this dien_jax reads version "
            f"{FORMAT_VERSION}; use the dien_jax that wrote it, or export the run again"
        )
    least = export.minimum_supported_calling_convention_version
    most = export.maximum_supported_calling_convention_version
    convention = manifest.get("calling_convention_version")
    if not isinstance(convention, int) or not least <= convention <= most:
        wrote = (manifest.get("versions") or {}).get("jax", "unknown")
        raise UserError(
            f"{file}: its programs have calling convention {convention!r}, written by JAX {wrote}; "
            f"this JAX reads {least} to {most}: export the run again, or use a JAX nearer to that"
        )
    return manifest


def _program(archive: zipfile.ZipFile, name: str) -> export.Exported:
    program = export.deserialize(bytearray(archive.read(_PROGRAMS.format(name))))
    program.mlir_module()  # of a newer StableHLO, it would fail only when it is first called
    return program


def _vocabulary(archive: zipfile.ZipFile, name: str, schema: Schema) -> list[str]:
    sizes = {one.name: one.size for one in (*schema.item, *schema.user, *schema.context)}
    values = json.loads(archive.read(_VOCABULARIES.format(name)))
    if len(values) != sizes[name]:
        raise ValueError(f"expected {sizes[name]} values of {name!r}, found {len(values)}")
    return values


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(_WEIGHTS.format(name)) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turns what a damaged archive, or one that JAX does not understand, raises into one error."""
    try:
        yield
    except Exception as error:  # zipfile, numpy and jax raise every kind
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{file}: damaged, or not readable by JAX {jax.__version__} (the manifest tells which "
            f"wrote it): {reason}"
        ) from error
