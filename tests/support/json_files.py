"""Values in JSON files that tests change."""

import json
from pathlib import Path
from typing import Any

REMOVED = object()
"""In place of a value: the key goes too."""


def edit(values: Any, keys: Any, value: Any) -> None:
    """Replace the value under some keys and indices, or remove it."""
    *above, last = keys
    for key in above:
        values = values[key]
    if value is REMOVED:
        del values[last]
    else:
        values[last] = value


def edit_json(file: Path, *keys: str | int, value: Any) -> None:
    values = json.loads(file.read_text())
    edit(values, keys, value)
    file.write_text(json.dumps(values))
