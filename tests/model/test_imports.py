"""What the model loads, and what one has to read of it."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
LOADED = """
import dien_jax.model, json, sys
print(json.dumps(sorted(sys.modules)))
"""


def test_the_model_loads_no_solver_and_few_modules() -> None:
    shown = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True).stdout
    modules = json.loads(shown)
    assert not [name for name in modules if name.partition(".")[0] in ("scipy", "sklearn")]
    ours = [name for name in modules if name.partition(".")[0] == "dien_jax"]
    assert len(ours) <= 27, ours


def imported_by(module: str, among: str) -> set[str]:
    """The modules of a package that a module needs, by the text of their imports."""
    found, left = set(), {module}
    while left:
        name = left.pop()
        found.add(name)
        tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())
        sources = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        left |= {name for name in sources if name and name.startswith(among)} - found
    return found


def test_the_network_alone_needs_few_files_and_no_schema_dataset_or_model_around_it() -> None:
    needed = imported_by("dien_jax.model.dien", "dien_jax.model.")
    read = {"dien", "interest", "auxiliary", "layers"}
    helpers = {"devices", "shapes", "shared_history"}
    assert needed == {f"dien_jax.model.{name}" for name in read | helpers}
    step = imported_by("dien_jax.model.click_model", "dien_jax.model.") - needed
    beside_counts = {"statistics", "tower", "factors"}
    assert step == {
        f"dien_jax.model.{name}" for name in {"click_model", "embeddings", "family"} | beside_counts
    }
