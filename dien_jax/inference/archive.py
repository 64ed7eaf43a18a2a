"""The exported file: a zip archive with a whole model, whose checksums detect damage.

    manifest.json                 versions, settings, features, inputs and outputs of every program
    programs/<name>.stablehlo     a program, as serialised by ``jax.export``
    weights/<name>.npy            an array; all programs share them
    vocabularies/<feature>.json   raw values of a feature; entry k is the value of row k
    model_card.md                 that of the run, for people; left out for a run without one

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
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import msgspec
import numpy as np
from jax import export

from dien_jax.data.metadata import lines_digest, repeated, schema_from_json
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError, reason
from dien_jax.inference.archive_entries import Entries
from dien_jax.inference.exported_programs import PROGRAMS, check_programs
from dien_jax.inference.stored_values import check_values
from dien_jax.runs.model_card import CARD_FILE
from dien_jax.utils.extras import require
from dien_jax.utils.json_values import (
    Count,
    LargeCount,
    Positive,
    as_type,
    parse_json,
    refuse_incomplete,
    shown,
)

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
LARGEST_MANIFEST, LARGEST_PROGRAM, LARGEST_VOCABULARY = 16 << 20, 1 << 30, 4 << 30
"""Bytes of the largest entries that are read; weights have the sizes that the manifest states."""


class _Weight(TypedDict):
    """Type and shape of an array."""

    dtype: str
    shape: list[LargeCount]


class _Program(TypedDict):
    """Types and shapes of what a program takes and returns, for those who call it."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


class _Manifest(TypedDict):
    """Form of ``manifest.json`` after its format and versions."""

    versions: dict[str, str]
    platforms: list[str]
    recurrence: str
    preset: str
    seed: LargeCount
    step: Count
    settings: dict[str, Any]
    schema: dict[str, Any]
    max_history: Positive
    history_buckets: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    programs: dict[str, _Program]
    weights: dict[str, _Weight]
    vocabularies: NotRequired[dict[str, str]]


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
    card: str = "",
) -> None:
    """Write an exported file; format, version and digests are added to ``manifest``."""
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}
    manifest["vocabularies"] = {name: lines_digest(v) for name, v in vocabularies.items()}
    entries = {_MANIFEST: json.dumps(manifest, indent=2, allow_nan=False).encode()}
    for name, program in programs.items():
        entries[_PROGRAM.format(name)] = bytes(program.serialize())
    for name, values in vocabularies.items():
        entries[_VOCABULARY.format(name)] = json.dumps(values, indent=0).encode()
    if card:
        entries[CARD_FILE] = card.encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
        for name, array in weights.items():  # stored: float32 hardly compresses
            info = zipfile.ZipInfo(_WEIGHT.format(name))
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


def is_archive(file: Path) -> bool:
    """Return whether a file is an exported one, of any version."""
    with zipfile.ZipFile(file) as archive, archive.open(_MANIFEST) as stream:
        return f'"format": "{FORMAT}"' in stream.read(200).decode()


def read_archive(file: Path) -> ExportedModel:
    """Read an exported file; refuse one that is damaged, edited, or too new for this program.

    Reading executes nothing, but using the model runs its programs.
    """
    if not file.is_file():
        problem = "is not a file" if file.exists() else "does not exist"
        raise UserError(f"{file} {problem}; expected {_EXPECTED}")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # zipfile raises exceptions of many kinds
        raise UserError(
            f"{file}: expected {_EXPECTED}, found another kind of file or one that was cut short: "
            f"{reason(error)}"
        ) from error
    with archive, _reading(file):
        _check_size(file, archive)
        entries = Entries(archive)
        manifest = _manifest(file, entries)
        require("export", "an exported model")
        source = f"{file}, {_MANIFEST}"
        described = as_type(manifest, _Manifest, source)
        _check_lengths(described, source)
        refuse_incomplete(described["programs"], PROGRAMS, f"{source}, programs")
        schema = schema_from_json(described["schema"], f"{source}, schema")
        digests = described.get("vocabularies")
        vocabularies = {
            feature.name: _vocabulary(file, entries, feature, digests)
            for feature in map(schema.feature, input_features(schema))
        }
        weights = {
            name: entries.array(_WEIGHT.format(name), shape["dtype"], shape["shape"])
            for name, shape in described["weights"].items()
        }
        check_values(file, weights, schema)
        programs = {name: _program(entries, name) for name in PROGRAMS}
    check_programs(file, programs, weights, schema)
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


def _manifest(file: Path, entries: Entries) -> dict[str, Any]:
    if _MANIFEST not in entries:
        raise UserError(f"{file}: expected {_EXPECTED}, found no {_MANIFEST} in it")
    content = entries.read(_MANIFEST, LARGEST_MANIFEST)
    manifest = parse_json(content, dict[str, Any], f"{file}, {_MANIFEST}")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{file}: expected {_EXPECTED}, with format {FORMAT!r} in its {_MANIFEST}")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise UserError(
            f"{file}: has format version {shown(version)}, this dien_jax reads version "
            f"{FORMAT_VERSION}; use the dien_jax that wrote it, or export the run again"
        )
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    convention = manifest.get("calling_convention_version")
    if type(convention) is not int or not oldest <= convention <= newest:
        versions = manifest.get("versions")
        writer = versions.get("jax", "unknown") if isinstance(versions, dict) else "unknown"
        raise UserError(
            f"{file}: its programs have calling convention {shown(convention)}, written by JAX "
            f"{writer}; this JAX reads {oldest} to {newest}: export the run again, or use a JAX "
            f"version nearer to that"
        )
    return manifest


def _check_lengths(manifest: _Manifest, source: str) -> None:
    buckets, longest = manifest["history_buckets"], manifest["max_history"]
    if buckets != sorted(set(buckets)) or buckets[-1] != longest:
        expected = f"rising lengths that end with max_history, {longest}"
        raise UserError(f"{source}: expected history_buckets to be {expected}, found {buckets}")
    trained = manifest["settings"].get("train")
    trained = trained.get("max_history") if isinstance(trained, dict) else None
    if longest != trained:
        expected = f"that of settings.train, {shown(trained)}"
        raise UserError(f"{source}: expected max_history to be {expected}, found {longest}")


def _vocabulary(
    file: Path, entries: Entries, feature: Feature, digests: dict[str, str] | None
) -> list[str]:
    """Return the raw values of a feature, which must be those that were exported."""
    name = _VOCABULARY.format(feature.name)
    values = parse_json(entries.read(name, LARGEST_VOCABULARY), list[str], f"{file}, {name}")
    if len(values) != feature.size:
        raise UserError(f"{file}, {name}: expected {feature.size} values, found {len(values)}")
    if (twice := repeated(values)) is not None:
        raise UserError(f"{file}, {name}: the value {twice!r} occurs twice")
    if digests is not None and digests.get(feature.name) != lines_digest(values):
        raise UserError(f"{file}, {name}: expected the values that were exported, found others")
    return values


def _program(entries: Entries, name: str) -> export.Exported:
    content = entries.read(_PROGRAM.format(name), LARGEST_PROGRAM)
    program = export.deserialize(bytearray(content))
    _check_calls(name, str(program.mlir_module()))  # fails for a newer StableHLO too
    return program


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn any exception of reading a damaged or newer archive into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, numpy and jax raise exceptions of many kinds
        raise UserError(
            f"{file}: damaged, or not readable by JAX {jax.__version__} (its {_MANIFEST} names the "
            f"version that wrote it): {reason(error)}"
        ) from error
