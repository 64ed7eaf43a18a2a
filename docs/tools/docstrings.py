"""Griffe extension: convert the reStructuredText in the project's docstrings to Markdown.

- A role such as ``:func:`gru` `` becomes a link if the object is documented, otherwise code.
- A double colon before an equation or code becomes a single one.
- An example that starts with ``>>>`` becomes a code block.

The API reference leaves out public names without a docstring. This extension warns of them, and the
warning fails a strict build.
"""

import re
from typing import Any

import griffe

_LOG = griffe.get_logger("docs.tools.docstrings")
_ROLE = re.compile(r":(?:py:)?(?:mod|class|func|meth|data|attr|exc):`~?([^`]+)`")
_LITERAL = re.compile(r"(?<=\S)::$", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)>>> .+(?:\n.*\S.*)*", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrite docstrings once all objects of a package are known."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite every docstring of the package, and report missing ones."""
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
    """Return the name as code, with a link if its object has a page."""
    try:
        first, dot, rest = name.partition(".")
        path = owner.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        path = name
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'


def _report_missing(package: griffe.Module) -> None:
    """Warn of names in the package's ``__all__`` that have no docstring."""
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
