"""What the model and the steps load, and what one has to read of the model."""

import ast
from pathlib import Path

import pytest
from support.programs import printed

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


def loaded(package: str) -> tuple[list[str], list[str]]:
    """The modules of ours and of others that importing a package loads."""
    program = f"import {package}, sys; print(*sys.modules, sep=chr(10))"
    names = printed(program).splitlines()
    ours = [name for name in names if name.partition(".")[0] in ("dien_jax", "dien_kernels")]
    return ours, [name for name in names if name not in ours]


def test_the_model_loads_no_solver_and_few_modules() -> None:
    ours, others = loaded("dien_jax.model")
    assert not [name for name in others if name.partition(".")[0] in ("scipy", "sklearn")]
    assert sum(name.partition(".")[0] == "dien_jax" for name in ours) <= 27, ours


def test_the_steps_load_no_code_for_several_devices_and_no_files() -> None:
    ours, _ = loaded("dien_jax.steps")
    packages = {name.split(".")[1] for name in ours if name.startswith("dien_jax.")}
    assert not packages & {"devices", "runs", "training", "preparation", "statistics"}
    assert len(ours) <= 62
    assert sum(name.startswith("dien_jax.") for name in ours) <= 37


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


@pytest.mark.repository
def test_the_network_alone_needs_few_files_and_no_schema_dataset_or_model_around_it() -> None:
    needed = imported_by("dien_jax.model.dien", "dien_jax.model.")
    read = {"dien", "interest", "auxiliary", "layers"}
    helpers = {"shapes", "shared_history"}
    assert needed == {f"dien_jax.model.{name}" for name in read | helpers}
    step = imported_by("dien_jax.model.click_model", "dien_jax.model.") - needed
    beside_counts = {"statistics", "tower", "factors"}
    assert step == {
        f"dien_jax.model.{name}" for name in {"click_model", "embeddings", "family"} | beside_counts
    }
