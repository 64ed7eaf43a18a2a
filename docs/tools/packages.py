"""MkDocs hook: a page of the API reference for each package, from its docstrings.

The pages are made when the site is built; ``nav`` in mkdocs.yml needs a line for each. The first
page of the reference is a file, docs/api/index.md.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
GUIDES = {
    "dien_jax.inference": "Guides: [Recommend](../recommending.md), [Rank](../ranking.md), "
    "[Export](../export.md).",
    "dien_jax.inspection": "Guide: [Look inside](../inside.md).",
    "dien_jax.model": "Guide: [Your own training loop](../own-loop.md).",
    "dien_jax.preparation": "Guides: [Your own log](../own-log.md), [Data](../data.md).",
    "dien_jax.server": "Guide: [Serve](../serving.md).",
    "dien_jax.training": "Guide: [Train](../training.md).",
    "dien_kernels": "[The kernels](../kernels.md) has equations and measurements.",
}
"""Lines under the heading of a page."""


def packages() -> list[str]:
    """Return the names of the public packages."""
    rooms = sorted((ROOT / "dien_jax").glob("*/__init__.py"))
    return [*(f"dien_jax.{room.parent.name}" for room in rooms), "dien_kernels"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name in packages():
        # Guides come first in a search.
        parts = ["---\nsearch:\n  boost: 0.3\n---", f"# {name}", f"::: {name}"]
        parts[2:2] = [GUIDES[name]] if name in GUIDES else []
        page = f"api/{name.removeprefix('dien_jax.')}.md"
        files.append(File.generated(config, page, content="\n\n".join(parts) + "\n"))
    return files
