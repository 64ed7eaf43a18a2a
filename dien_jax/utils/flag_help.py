"""Help texts of flags, which are the docstrings under the fields of dataclasses."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

from typing_extensions import Doc


def join_help_lines(arguments: type) -> None:
    """Let help texts be wrapped at the width of the terminal alone.

    tyro keeps the line breaks of an indented docstring, and breaks its lines a second time. A text
    in the annotation of a field comes before its docstring, so each class of flags, its bases and
    the classes of its groups are annotated with their docstrings as one line.

    Args:
      arguments: dataclass of the flags.
    """
    for kind in set(_classes(arguments)):
        texts: dict[str, str] = {}
        for base in reversed(kind.__mro__):
            texts |= _field_docstrings(base)
        annotations = kind.__annotations__  # its own ones, not those of bases
        for name in annotations.keys() & texts.keys():
            text = Doc(" ".join(texts[name].split()))
            annotations[name] = Annotated[annotations[name], text]


def description(arguments: type) -> str:
    """Return the text above the flags: the docstring of their class, for ``tyro.cli``.

    tyro does not wrap this text, and keeps no line breaks but those in front of spaces, to which it
    adds one after an empty line. So it is wrapped here, and indented as far as the flags are.

    Args:
      arguments: dataclass of the flags.

    Returns:
      Paragraphs, without empty lines, in lines that fit the terminal.
    """
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ")
    wrapper.break_on_hyphens = False  # in the names of flags
    paragraphs = [" ".join(text.split()) for text in (arguments.__doc__ or "").split("\n\n")]
    return "\n".join(wrapper.fill(text) for text in paragraphs)


def _classes(arguments: type) -> Iterator[type]:
    """Yield a dataclass, its bases, and those of the dataclasses in its fields."""
    for kind in arguments.__mro__:
        if dataclasses.is_dataclass(kind):
            yield kind
    for field in dataclasses.fields(arguments):
        group: Any = field.type
        group = getattr(group, "__origin__", group)  # of Annotated
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            yield from _classes(group)


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings of the fields that a class defines, by name."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # built in, or made by a program
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    body: list[Any] = getattr(definition, "body", [])
    texts = {}
    for field, below in itertools.pairwise(body):
        text = getattr(getattr(below, "value", None), "value", None)
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(below, ast.Expr) and isinstance(text, str):
            texts[field.target.id] = text
    return texts
