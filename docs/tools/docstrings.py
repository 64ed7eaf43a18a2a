"""Griffe extension: reads the reStructuredText that the project's docstrings use.

Docstrings name other objects by roles, as in ``:func:`gru` ``, introduce equations and code by a
double colon, and have examples that start with ``>>>``. All are turned into Markdown: a role into a
link where the object is documented and into code where it is not, the double colon into a single
one, an example into a block of code.

A public name without a docstring is missing from the API reference; it is reported, and a strict
build fails.
"""

import re
from typing import Any

import griffe

_LOG = griffe.get_logger("docs.tools.docstrings")
_ROLE = re.compile(r":(?:py:)?(?:mod|class|func|meth|data|attr|exc):`~?([^`]+)`")
_LITERAL = re.compile(r"(?<=\S)::$", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)>>> .+(?:\n.*\S.*)*", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrites docstrings once all objects of a package are known."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite every docstring of the package, and report those that are missing."""
        self._rewrite(pkg, set())
        for module in (pkg, *pkg.modules.values()):
            _report_missing(module)

    def _rewrite(self, owner: griffe.Object, seen: set[str]) -> None:
        if owner.path in seen:
            return
        seen.add(owner.path)
        if owner.docstring is not None:
            text = _ROLE.sub(lambda role: _linked(owner, role[1]), owner.docstring.value)
            text = _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", text)
            owner.docstring.value = _LITERAL.sub(":", text)
        for member in owner.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member, seen)


def _linked(owner: griffe.Object, name: str) -> str:
    """The name as code, linked where the page of its object exists."""
    try:
        first, dot, rest = name.partition(".")
        path = owner.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        path = name
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'


def _report_missing(package: griffe.Module) -> None:
    """Warn of names in the ``__all__`` of a package that have no docstring."""
    if not package.is_init_module:
        return
    for name in package.exports or ():
        member = package.members.get(str(name))
        if member is None or member.name.startswith("_"):
            continue
        try:
            documented = member.has_docstring
        except griffe.AliasResolutionError:  # of a package that is not loaded
            continue
        if not documented:
            _LOG.warning("%s is public and has no docstring", member.path)
