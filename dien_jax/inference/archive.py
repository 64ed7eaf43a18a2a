"""The exported file: a zip archive of a whole model, with digests that detect damage and edits.

    manifest.json                 versions, settings, features, inputs and outputs of every program,
                                  and the sha256 of every other entry
    programs/<name>.stablehlo     a program, as serialised by ``jax.export``
    weights/<name>.npy            an array; all programs share them
    list_offsets.npy              added to the log odds of each item in a list over all items
    list_weights.json             weights of the parts of a score in such a list
    vocabularies/<feature>.json   raw values of a feature; entry k is the value of row k
    model_card.md                 the model card of the run

The comment of the archive is the sha256 of the manifest. docs/export.md describes the file, and
reads it without this package. Programs are executable code, so load files only from sources that
you trust. Two checks limit the damage by other files: one of the size of the unpacked entries, one
of calls to functions outside of a program.
"""

import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from dien_jax.data.metadata import schema_from_json
from dien_jax.data.schema import Schema
from dien_jax.errors import UserError, failing, require, require_unforked
from dien_jax.inference.exported_programs import PROGRAMS
from dien_jax.runs.calibration import OFFSETS_FILE
from dien_jax.runs.list_weights import WEIGHTS_FILE, ListWeights
from dien_jax.runs.model_card import CARD_FILE
from dien_jax.utils.json_values import check_format, parse_json

FORMAT = "dien_jax.export"
FORMAT_VERSION = 3
_MANIFEST = "manifest.json"
_PROGRAM, _WEIGHT, _VOCABULARY = ("programs/{}.stablehlo", "weights/{}.npy", "vocabularies/{}.json")
_CUSTOM_CALLS = frozenset({"shape_assertion", "Sharding", "mhlo.erf", "mhlo.tan", "mhlo.topk"})
"""Custom calls that XLA itself replaces; any other calls an external function by name."""
_EXPECTED = "a file written by python -m dien_jax.export"


@dataclass(frozen=True)
class ExportedModel:
    """The content of an exported file; vocabularies are as in a dataset."""

    manifest: dict[str, Any]
    schema: Schema
    vocabularies: dict[str, list[str]]
    weights: dict[str, np.ndarray]
    programs: dict[str, export.Exported]
    list_offsets: np.ndarray | None
    list_weights: ListWeights | None


def input_features(schema: Schema) -> list[str]:
    """Return the features that programs take as rows, which need vocabularies."""
    return ["item", "user", *(f.name for f in schema.given if f.size is not None)]


def write_archive(file: Path, model: ExportedModel, card: str = "") -> None:
    """Write an exported file; add format, version and digests to its manifest."""
    arrays = {_WEIGHT.format(name): array for name, array in model.weights.items()}
    if model.list_offsets is not None:
        arrays[OFFSETS_FILE] = model.list_offsets
    digests: dict[str, str] = {}
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: Any, method: int = zipfile.ZIP_DEFLATED) -> None:
            digests[name] = sha256(content).hexdigest()
            archive.writestr(zipfile.ZipInfo(name), content, method)

        for name, array in arrays.items():  # stored: float32 hardly compresses
            stream = io.BytesIO()
            np.save(stream, np.asarray(array, order="C"), allow_pickle=False)
            with stream.getbuffer() as view:  # released also where the disk is full
                add(name, view, zipfile.ZIP_STORED)
        for name, program in model.programs.items():
            add(_PROGRAM.format(name), bytes(program.serialize()))
        for name, values in model.vocabularies.items():
            add(_VOCABULARY.format(name), json.dumps(values, indent=0).encode())
        if model.list_weights is not None:
            add(WEIGHTS_FILE, json.dumps(asdict(model.list_weights)).encode())
        if card:
            add(CARD_FILE, card.encode())
        about = {"format": FORMAT, "format_version": FORMAT_VERSION, **model.manifest}
        content = json.dumps(about | {"sha256": digests}, indent=2, allow_nan=False).encode()
        add(_MANIFEST, content)
        archive.comment = digests[_MANIFEST].encode()


def is_archive(file: Path) -> bool:
    """Return whether a file is an exported file, of any version."""
    with zipfile.ZipFile(file) as archive, archive.open(_MANIFEST) as stream:
        return f'"format": "{FORMAT}"' in stream.read(200).decode()


def read_archive(file: Path) -> ExportedModel:
    """Read an exported file without running it; refuse damage, edits and other versions."""
    require_unforked()  # parsing a program uses threads too
    if not file.is_file():
        raise UserError(f"{file} is not a file; expected {_EXPECTED}")
    found = "another kind of file or one that was cut short"
    with failing(f"{file}: expected {_EXPECTED}, found {found}"):
        archive = zipfile.ZipFile(file)
    damage = f"damaged, or not readable by JAX {jax.__version__} (its {_MANIFEST} names the version"
    with archive, failing(f"{file}: {damage} that wrote it)"):
        # _content unpacks entries up to their stated sizes, so a limit on these bounds the memory.
        unpacked = sum(info.file_size for info in archive.infolist())
        limit = max(100 * file.stat().st_size, 64 * 2**20)
        if unpacked > limit:
            raise UserError(
                f"{file}: its entries unpack to {unpacked:,} bytes, expected at most {limit:,} for "
                f"a file of this size; it was not written by python -m dien_jax.export"
            )
        manifest = _manifest(file, archive)
        require("export", "an exported model")

        def read(name: str) -> bytes:
            content = _content(archive, name)
            if sha256(content).hexdigest() != manifest["sha256"][name]:
                raise UserError(f"{file}, {name}: expected what was exported, found other content")
            return content

        def array(name: str) -> np.ndarray:
            return np.load(io.BytesIO(read(name)), allow_pickle=False)

        schema = schema_from_json(manifest["schema"], f"{file}, {_MANIFEST}, schema")
        return ExportedModel(
            manifest,
            schema,
            {name: json.loads(read(_VOCABULARY.format(name))) for name in input_features(schema)},
            {name: array(_WEIGHT.format(name)) for name in manifest["weights"]},
            {name: _program(name, read(_PROGRAM.format(name))) for name in PROGRAMS},
            array(OFFSETS_FILE) if OFFSETS_FILE in manifest["sha256"] else None,
            parse_json(read(WEIGHTS_FILE), ListWeights, f"{file}, {WEIGHTS_FILE}")
            if WEIGHTS_FILE in manifest["sha256"]
            else None,
        )


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return an entry; ``archive.read`` would unpack it whole before it cuts it to its size."""
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # not bounded
        method = entry.compress_type
        raise ValueError(f"{name} is packed by method {method}, which export never uses")
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)


def _manifest(file: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the manifest; refuse versions that this package or its JAX cannot read."""
    source = f"{file}, {_MANIFEST}"
    if _MANIFEST not in archive.namelist():
        raise UserError(f"{file}: expected {_EXPECTED}, found no {_MANIFEST} in it")
    content = _content(archive, _MANIFEST)
    manifest = parse_json(content, dict[str, Any], source)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{file}: expected {_EXPECTED}, with format {FORMAT!r} in its {_MANIFEST}")
    check_format(manifest, FORMAT_VERSION, source, "export the run again")
    if sha256(content).hexdigest().encode() != archive.comment:
        raise UserError(f"{source}: expected what was exported, found other content")
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    if not oldest <= (convention := manifest["calling_convention_version"]) <= newest:
        raise UserError(
            f"{file}: its programs have calling convention {convention}, written by JAX "
            f"{manifest['versions']['jax']}; this JAX reads {oldest} to {newest}: export the run "
            f"again, or use a JAX version nearer to that"
        )
    return manifest


def _program(name: str, content: bytes) -> export.Exported:
    """Return a program; refuse one that calls functions outside of it."""
    program = export.deserialize(bytearray(content))
    text = str(program.mlir_module())  # also fails for a newer StableHLO
    for call in re.finditer(r'\bstablehlo\.custom_call\b(?: @"?([^"(\s]*)"?\()?', text):
        if call[1] not in _CUSTOM_CALLS:
            raise ValueError(
                f"program {name!r} calls {(call[1] or 'a function')[:100]!r} by name; an exported "
                f"model may call nothing but {', '.join(sorted(_CUSTOM_CALLS))}"
            )
    return program
