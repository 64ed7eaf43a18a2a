"""The public interface of the installed packages, name by name, and the list that it is held to.

    python tests/support/public_names.py

writes ``tests/public_names.json``. A name has its parameters in their order: ``x`` must be given,
``x=`` has a default, and those after ``*`` are given by keyword. A flag has its choices, a table
its keys. No program is compiled.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import tyro

import dien_jax
from dien_jax.__main__ import commands

FILE = Path(__file__).parents[1] / "public_names.json"
COMMAND = "python tests/support/public_names.py"
Interface = dict[str, list[str]]
_OF_FLAX = ("parent", "name", "scope", "setup")
"""Attributes that every module of Flax has."""
_FLAG = re.compile(r"\W{0,3}?(--[a-z][\w.-]*)(?:, (--[a-z][\w.-]*))?(?: (\S+))?")
"""A flag at the left of a help text, the flag that takes it back, and the form of its values."""


def interface() -> Interface:
    """Return all public names, commands and flags with their parts."""
    found: Interface = {}
    for package in _packages():
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, types.ModuleType):
                found |= _sources(value)
            else:
                found |= _entries(f"{package.__name__}.{name}", value)
    described = {name.rpartition(".")[2] for name in found}
    for name in dien_jax.__all__:
        value = getattr(dien_jax, name)
        is_known = name in described  # by the package that it comes from
        found |= {f"dien_jax.{name}": []} if is_known else _entries(f"dien_jax.{name}", value)
    for command in commands():
        found |= _flags(command)
    return dict(sorted(found.items()))


def recorded() -> Interface:
    return json.loads(FILE.read_text(encoding="utf-8"))


def changes(before: Interface, after: Interface) -> tuple[list[str], list[str]]:
    """Return what programs and scripts may miss, and what is new, a line each."""
    missed = [f"{name} is gone" for name in before.keys() - after.keys()]
    new = [f"{name} is new" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        gone = [part for part in before[name] if part not in after[name]]
        missed += [f"{name}: {part} is gone" for part in gone]
        new += [f"{name}: {part} is new" for part in after[name] if part not in before[name]]
        kept = [part for part in after[name] if part in before[name]]
        if kept != [part for part in before[name] if part in after[name]]:
            missed.append(f"{name}: the order was {', '.join(before[name])}")
    return sorted(missed), sorted(new)


def _packages() -> Iterator[types.ModuleType]:
    """Yield the packages with pages of the API reference, all that are not private."""
    for module in pkgutil.iter_modules(dien_jax.__path__):
        if module.ispkg and not module.name.startswith("_"):
            yield importlib.import_module(f"dien_jax.{module.name}")
    yield importlib.import_module("dien_kernels")


def _sources(package: types.ModuleType) -> Interface:
    """Return the options and the function of each source of logs."""
    found: Interface = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        source = importlib.import_module(module.name)
        if hasattr(source, "prepare"):
            for name, value in vars(source).items():
                is_own = getattr(value, "__module__", None) == module.name
                if is_own and (name == "prepare" or name.endswith("Options")):
                    found[f"{module.name}.{name}"] = _parameters(value)
    return found


def _entries(name: str, value: Any) -> Interface:
    """Return a name with its parts and, of a class, its public members."""
    if isinstance(value, type):
        hidden = _OF_FLAX if issubclass(value, nn.Module) else ()
        parts = [part for part in _parameters(value) if part.rstrip("=") not in hidden]
        return {name: parts} | {f"{name}.{n}": p for n, p in _members(value) if n not in hidden}
    if callable(value) and not typing.get_args(value):
        return {name: _parameters(value)}
    if isinstance(value, Mapping):
        return {name: [str(key) for key in value]}
    return {name: [str(choice) for choice in typing.get_args(value)]}


def _members(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Yield the public methods and other attributes of a class that our packages declare."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    yield from ((field.name, []) for field in fields if not field.init and field.name[0] != "_")
    named = {field.name for field in fields} | {*getattr(kind, "_fields", ())}
    for name, what, owner, value in inspect.classify_class_attrs(kind):
        is_public = not name.startswith("_") or name == "__call__"
        is_ours = owner.__module__.startswith(("dien_jax", "dien_kernels"))
        if is_public and is_ours and name not in named:
            function = getattr(value, "__func__", value)  # of a class method or a static one
            is_function = inspect.isfunction(function)
            yield name, _parameters(function)[what != "static method" :] if is_function else []


def _parameters(function: Any) -> list[str]:
    """Return the parameters of a function or a class, ``*`` before those given by keyword."""
    parts: list[str] = []
    if isinstance(function, type) and issubclass(function, Exception):
        return parts
    for name, parameter in inspect.signature(function).parameters.items():
        if name.startswith("_"):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            parts.append("*" * (1 + (parameter.kind is parameter.VAR_KEYWORD)) + name)
            continue
        is_keyword = parameter.kind is parameter.KEYWORD_ONLY
        if is_keyword and not any(part.startswith("*") for part in parts):
            parts.append("*")
        parts.append(name if parameter.default is parameter.empty else f"{name}=")
    return parts


def _flags(command: str) -> Interface:
    """Return the flags of a command, of each source for ``prepare``, with their choices."""
    module = importlib.import_module(f"dien_jax.{command}")
    kinds = {command: getattr(module, "Arguments", None)}
    if command == "prepare":
        kinds = {f"{command} {source}": kind for source, (kind, _) in module.SOURCES.items()}
    found: Interface = {}
    for prefix, kind in kinds.items():
        found[prefix] = []
        for line in _help(kind).splitlines():
            match = _FLAG.match(line)
            if match:
                choices = ",".join(re.findall(r"{([\w,-]+)}", match[3] or "")).split(",")
                found[f"{prefix} {match[1]}"] = [c for c in choices if c not in ("", "None")]
                found |= {f"{prefix} {match[2]}": []} if match[2] else {}
    return found


def _help(arguments: Any) -> str:
    """Return the help text of a command, in one column."""
    output = io.StringIO()
    wide = mock.patch.dict("os.environ", COLUMNS="100")
    with wide, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(arguments, args=["--help"])
    return output.getvalue()


def main() -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(parts)}" for name, parts in interface().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
