"""Lazy imports: public names of a package that are imported at their first use."""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    The names are those that its file imports under ``if TYPE_CHECKING``.
    """
    blocks = [
        part.body for part in ast.parse(Path(file).read_bytes()).body if isinstance(part, ast.If)
    ]
    imports = [part for part in blocks[0] if isinstance(part, ast.ImportFrom)]
    module_of = {alias.name: str(part.module) for part in imports for alias in part.names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, names
