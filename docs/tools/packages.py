"""MkDocs hook: generate a page of the API reference for each package.

Pages are generated from docstrings when the site is built; each needs a line in ``nav`` of
mkdocs.yml. The first page of the reference is a file, docs/api/index.md.
"""

import importlib
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
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
"""Links to guides, shown below the heading of a page."""
MORE = {
    "config": {"settings": "ModelConfig TrainConfig"},
    "data": {"batches": "Batch FeatureTables Loader evaluation_loader example_batch"},
    "dien_kernels": {
        "networks": "Dense attention_weights auxiliary_loss candidate_attention masked_softmax",
        "implementations": "Blocks Choice Device Form Implementation Network NetworkImplementation "
        "Precision assume explain explain_network instruction_set interpreted "
        "load_native_in_background",
    },
    "inference": {
        "files": "RequestColumns UserColumns export_run list_for_users measure_lists score_requests"
    },
    "metrics": {
        "comparison": "Difference PartAuc auc_by_size auc_interval bootstrap delong "
        "mean_over_users paired_seeds",
        "lists": "hit_rate list_metrics ndcg reciprocal_rank",
    },
    "model": {
        "attention": "ATTENTIONS AUXILIARIES AuxiliaryNetwork BilinearAttention "
        "BinaryAuxiliaryLoss MLPAttention SoftmaxAuxiliaryLoss auxiliary_positions",
        "click-model": "BatchNorm ClickModel Dice MLP ModelOutput PReLU from_authors",
        "tower": "FeatureEmbeddings Tower factor_names statistics_names",
    },
}
"""Names that are not on the main page of their package, by package and page."""


def packages() -> list[str]:
    """Return the names of the public packages."""
    rooms = sorted((ROOT / "dien_jax").glob("*/__init__.py"))
    return [*(f"dien_jax.{room.parent.name}" for room in rooms), "dien_kernels"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for package in packages():
        name = package.removeprefix("dien_jax.")
        more = {page: names.split() for page, names in MORE.get(name, {}).items()}
        elsewhere = {member for members in more.values() for member in members}
        exported = importlib.import_module(package).__all__
        assert elsewhere <= set(exported), f"{package}: unknown names in MORE"
        pages = {name: [member for member in exported if member not in elsewhere]}
        pages |= {f"{name}-{page}": members for page, members in more.items()}
        links = ", ".join(f"[{page}]({name}-{page}.md)" for page in more)
        for page, members in pages.items():
            # A low boost ranks these pages below guides in a search.
            parts = [
                "---\nsearch:\n  boost: 0.3\n---",
                f"# {package}{page[len(name) :].replace('-', ': ', 1)}",
            ]
            if page == name:
                parts += [GUIDES[package]] if package in GUIDES else []
                parts += [f"More names: {links}."] if more else []
            chosen = "".join(f"\n      - {member}" for member in members)
            parts.append(f"::: {package}\n    options:\n      members:{chosen}")
            content = "\n\n".join(parts) + "\n"
            files.append(File.generated(config, f"api/{page}.md", content=content))
    return files
