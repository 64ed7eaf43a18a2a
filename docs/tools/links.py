"""MkDocs hook: make links that work in the repository work on the site too.

Five pages of the site are outside ``docs/``; ``OUTSIDE`` gives their addresses. A relative link is
resolved from the location of the page's file in the repository. If the target is

- a file of the site, the link goes to that file's address;
- another file of the repository, the link goes into ``repo_url``; without a ``repo_url``, only the
  text of the link is kept;
- missing, MkDocs reports it, and a strict build fails.
"""

import os
import posixpath
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = {
    "examples/README.md": "examples.md",
    "kernels/README.md": "kernels.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside ``docs/``: path on the site by path in the repository."""
STARTS = {"README.md": "index.md"}
"""Files that have no page, and the page to link instead."""


class _Links(Treeprocessor):
    """Rewrite the links of the page that is being rendered."""

    page: Page
    addresses: dict[Path, str]
    repository: str | None

    def run(self, root: ElementTree.Element) -> None:
        """Rewrite every relative link and image below ``root``."""
        for element in root.iter():
            for name in ("href", "src"):
                value = element.get(name)
                if value is not None:
                    self._rewrite(element, name, value)

    def _rewrite(self, element: ElementTree.Element, name: str, value: str) -> None:
        link = urllib.parse.urlsplit(value)
        if link.scheme or link.netloc or not link.path or link.path.startswith("/"):
            return
        source = Path(self.page.file.abs_src_path or "").parent
        target = Path(os.path.normpath(source / urllib.parse.unquote(link.path)))
        address = self.addresses.get(target)
        if address is not None:
            start = posixpath.dirname(self.page.file.src_uri)
            path = urllib.parse.quote(posixpath.relpath(address, start))
            element.set(name, link._replace(path=path).geturl())
        elif name == "href" and target.exists() and target.is_relative_to(ROOT):
            if self.repository:
                path = urllib.parse.quote(target.relative_to(ROOT).as_posix())
                element.set(name, f"{self.repository.rstrip('/')}/blob/HEAD/{path}")
            else:
                element.tag = "span"
                del element.attrib[name]


class _Extension(markdown.Extension):
    """Run ``links`` after links have become elements and before MkDocs checks them."""

    def __init__(self, links: _Links) -> None:
        super().__init__()
        self.links = links

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802 - Markdown's name
        """Register between inline patterns (priority 20) and MkDocs's own links (priority 0)."""
        self.links.md = md
        md.treeprocessors.register(self.links, "repository_links", 10)


_LINKS = _Links()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the Markdown extension."""
    _LINKS.repository = config.repo_url
    # MkDocs passes the list to Markdown, which accepts instances as well as names.
    config.markdown_extensions.append(_Extension(_LINKS))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside ``docs/``, and store the address of every file of the site."""
    for source, address in OUTSIDE.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    _LINKS.addresses = {
        Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path is not None
    }
    _LINKS.addresses |= {ROOT / source: page for source, page in STARTS.items()}
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Store the page that is rendered next."""
    _LINKS.page = page
    return markdown
