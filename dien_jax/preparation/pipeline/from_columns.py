"""Logs in columns, of interactions or impressions, and folders that extend another.

In a folder that extends another, ids keep their rows, and new ids are appended. Ids that the new
log lacks keep their rows and features, and numeric features are standardised as in the old folder.
So embedding rows of a model trained on the old folder keep their meaning.
"""

from typing import Any

from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.data.schema import GROUPS, listed
from dien_jax.errors import UserError
from dien_jax.preparation.logs import SourceLog
from dien_jax.preparation.options import EXAMPLE_SETTINGS, ColumnOptions, LogForm
from dien_jax.preparation.reading.log import Log, address_of, files_of, read_table
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import say
from dien_jax.utils.text_files import sha256

SETTINGS = "settings"  # entry of source in meta.json
# Options in that entry, with EXAMPLE_SETTINGS; all but min_count must equal the extended folder's
MATCHED = ("split", "min_count", "user", "item", "timestamp", "separator", "max_values", "label")


def read_own_log(
    workspace: Workspace, options: ColumnOptions, name: str, table: Any = None
) -> SourceLog:
    """Read a log: ``table`` if given, else the file that the options of its source name."""
    say(f"from {name} in {address_of(options.file) or options.file}: {options.split} split")
    extended = _open_extended(options, name)
    hint = " (a CSV file without a header needs --columns)"
    wanted, found = options.log_columns(), set[str]()
    form = LogForm(wanted, options.columns, options.separator, hint, found)
    if table is None:
        log = workspace.read_columns(options.file, form)
        files = _files(options, log)
    else:
        log, digest = read_table(workspace, options.file, table, form)
        files = {options.file.name: digest}
    about = {"name": name, "files": files, SETTINGS: _matched(options)}
    if extended is not None:
        about["extends"] = {"folder": str(options.extend), "meta": data_digest(extended)}
    report = []
    if name == "interactions" and "label" in found - {column.name for column in wanted.values()}:
        where = "use prepare impressions, or make_dataset(..., label='label')"
        problem = "the column 'label' is not read, and every row is a choice"
        report = [f"warning: {problem}; if rows of label 0 are none, {where}"]
    return SourceLog(log, options.features(), about, report, extended=extended)


def _open_extended(options: ColumnOptions, source: str) -> Dataset | None:
    """Open the folder of ``--extend``, or return None; refuse one made with other settings."""
    if options.extend is None:
        return None
    flag = f"--extend {options.extend}"
    try:
        dataset = open_dataset(options.extend)
    except UserError as error:
        raise UserError(f"--extend: {error}") from error
    made_by = dataset.meta.get("source", {})
    if made_by.get("name") != source:
        maker = f"{source}, found one made by {made_by.get('name')!r}"
        raise UserError(f"{flag}: expected a folder made by prepare {maker}")
    settings = made_by.get(SETTINGS, {})
    for group, columns in options.features().groups.items():
        given, features = listed(columns), getattr(dataset.schema, group)
        expected = listed(features[1:] if GROUPS[group].source == "id" else features)
        if given != expected:
            must = f"--{group}-features must be those of that folder, {expected}, got {given}"
            raise UserError(f"{flag}: {must}")
    for name, value in _matched(options).items():
        if name != "min_count" and settings.get(name) != value:  # it applies to new values only
            both = (settings.get(name), value)
            expected, got = ("none" if setting is None else repr(setting) for setting in both)
            must = f"must be that of that folder, {expected}, got {got}"
            raise UserError(f"{flag}: --{name.replace('_', '-')} {must}")
    return dataset


def _matched(options: ColumnOptions) -> dict[str, Any]:
    names = (name for name in (*MATCHED, *EXAMPLE_SETTINGS) if hasattr(options, name))
    return {name: getattr(options, name) for name in names}


def _files(options: ColumnOptions, log: Log) -> dict[str, str | None]:
    """Return the digests of a log's files by name; None for files at an address."""
    if (address := address_of(options.file)) is not None:
        inside = f"{address.removeprefix('file://')}/"
        return dict.fromkeys(start.file.removeprefix(inside) for start in log.starts)
    folder = options.file if options.file.is_dir() else options.file.parent
    parts = files_of(options.file)
    return {part.relative_to(folder).as_posix(): sha256(part) for part in parts}
