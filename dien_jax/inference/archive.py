"""The exported file: a zip archive with a whole model, whose checksums detect damage.

    manifest.json                 versions, settings, features, inputs and outputs of every program
    programs/<name>.stablehlo     a program, as serialised by ``jax.export``
    weights/<name>.npy            an array; all programs share them
    vocabularies/<feature>.json   raw values of a feature; entry k is the value of row k

docs/export.md describes it, and reads it without this package. Programs are compiled code for
whoever runs them, so a file must come from somebody who is trusted. Two checks limit damage by
others: on the size of the unpacked entries, and on calls out of the compiled program.
"""

import json
import re
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
from dien_jax.errors import UserError, reason
from dien_jax.utils.extras import require

FORMAT = "dien_jax.export"
FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_PROGRAM, _WEIGHT, _VOCABULARY = ("programs/{}.stablehlo", "weights/{}.npy", "vocabularies/{}.json")
_MAX_EXPANSION = 100
"""Maximum ratio of the unpacked size to the size of a file, beyond ``_MIN_UNPACKED`` bytes."""
_MIN_UNPACKED = 64 * 2**20
_CUSTOM_CALLS = frozenset({"shape_assertion", "Sharding", "mhlo.erf", "mhlo.tan", "mhlo.topk"})
"""Custom calls that XLA itself replaces; any other one calls a function by its name."""
_EXPECTED = "a file written by python -m dien_jax.export"


@dataclass(frozen=True)
class ExportedModel:
    """The content of an exported file, with the vocabularies in the form of a dataset's."""

    manifest: dict[str, Any]
    schema: Schema
    vocabularies: dict[str, list[str]]
    weights: dict[str, np.ndarray]
    programs: dict[str, export.Exported]


def input_features(schema: Schema) -> list[str]:
    """Return the features whose rows programs take, which therefore need a vocabulary."""
    return ["item", "user", *(f.name for f in schema.context if f.size is not None)]


def write_archive(
    file: Path,
    manifest: dict[str, Any],
    programs: dict[str, export.Exported],
    weights: dict[str, np.ndarray],
    vocabularies: dict[str, list[str]],
) -> None:
    """Write an exported file; format and version are added to ``manifest``."""
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}
    entries = {_MANIFEST: json.dumps(manifest, indent=2, allow_nan=False).encode()}
    for name, program in programs.items():
        entries[_PROGRAM.format(name)] = bytes(program.serialize())
    for name, values in vocabularies.items():
        entries[_VOCABULARY.format(name)] = json.dumps(values, indent=0).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
        for name, array in weights.items():  # stored: float32 hardly compresses
            info = zipfile.ZipInfo(_WEIGHT.format(name))
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


def read_archive(file: Path) -> ExportedModel:
    """Read an exported file; refuse one that is damaged, or too new for this package or JAX."""
    if not file.is_file():
        problem = "is not a file" if file.exists() else "does not exist"
        raise UserError(f"{file} {problem}; expected {_EXPECTED}")
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file}: expected {_EXPECTED}, found another kind of file or one that was cut short: "
            f"{error}"
        ) from error
    with archive:
        _check_size(file, archive)
        manifest = _manifest(file, archive)
        require("export", "an exported model")
        with _reading(file):
            schema = schema_from_json(manifest["schema"], f"{_MANIFEST}, schema")
            sizes = {f.name: f.size for f in (*schema.item, *schema.user, *schema.context)}
            vocabularies, weights = {}, {}
            for name in input_features(schema):
                vocabularies[name] = values = json.loads(archive.read(_VOCABULARY.format(name)))
                if len(values) != sizes[name]:
                    raise ValueError(f"{name!r} has {len(values)} values, not {sizes[name]}")
            for name in manifest["weights"]:
                with archive.open(_WEIGHT.format(name)) as stream:
                    weights[name] = array = np.lib.format.read_array(stream, allow_pickle=False)
                if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                    raise ValueError(f"{name} is not finite")
            programs = {
                name: export.deserialize(bytearray(archive.read(_PROGRAM.format(name))))
                for name in manifest["programs"]
            }
            for name, program in programs.items():  # fails for a newer StableHLO too
                _check_calls(name, str(program.mlir_module()))
    return ExportedModel(manifest, schema, vocabularies, weights, programs)


def _check_size(file: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a file whose entries would fill the memory; no more than their sizes is ever read."""
    unpacked = sum(info.file_size for info in archive.infolist())
    limit = max(_MAX_EXPANSION * file.stat().st_size, _MIN_UNPACKED)
    if unpacked > limit:
        raise UserError(
            f"{file}: its entries unpack to {unpacked:,} bytes, expected at most {limit:,} for a "
            f"file of this size; it was not written by python -m dien_jax.export"
        )


def _check_calls(name: str, program: str) -> None:
    """Refuse a program that calls functions which are not part of it."""
    for call in re.finditer(r'\bstablehlo\.custom_call\b(?: @"?([^"(\s]*)"?\()?', program):
        if call[1] not in _CUSTOM_CALLS:
            raise ValueError(
                f"program {name!r} calls {(call[1] or 'a function')[:100]!r} by name; an exported "
                f"model may call nothing but {', '.join(sorted(_CUSTOM_CALLS))}"
            )


def _manifest(file: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if _MANIFEST not in archive.namelist():
        raise UserError(f"{file}: expected {_EXPECTED}, found no {_MANIFEST} in it")
    with _reading(file):
        manifest = json.loads(archive.read(_MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{file}: expected {_EXPECTED}, with format {FORMAT!r} in its {_MANIFEST}")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise UserError(
            f"{file}: has format version {version!r}, this dien_jax reads version "
            f"{FORMAT_VERSION}; use the dien_jax that wrote it, or export the run again"
        )
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    convention = manifest.get("calling_convention_version")
    if not isinstance(convention, int) or not oldest <= convention <= newest:
        writer = (manifest.get("versions") or {}).get("jax", "unknown")
        raise UserError(
            f"{file}: its programs have calling convention {convention!r}, written by JAX "
            f"{writer}; this JAX reads {oldest} to {newest}: export the run again, or use a JAX "
            f"version nearer to that"
        )
    return manifest


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn any exception of reading a damaged or newer archive into a :class:`UserError`."""
    try:
        yield
    except Exception as error:  # zipfile, numpy and jax raise exceptions of many kinds
        raise UserError(
            f"{file}: damaged, or not readable by JAX {jax.__version__} (its {_MANIFEST} names the "
            f"version that wrote it): {reason(error)}"
        ) from error
