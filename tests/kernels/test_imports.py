"""What the package dien_kernels imports: jax, and what jax imports itself."""

import pytest
from support.programs import printed

pytestmark = [pytest.mark.long, pytest.mark.repository]

EVERYTHING = """
import importlib, pkgutil, sys
import jax, jax.numpy as jnp
import dien_kernels

runs_mosaic_gpu = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)
for module in pkgutil.walk_packages(dien_kernels.__path__, "dien_kernels."):
    if runs_mosaic_gpu or "mosaic_gpu" not in module.name:
        importlib.import_module(module.name)
weights = dien_kernels.Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
for name in ("reference", "xla", "auto"):
    run = lambda x: dien_kernels.gru(
        x, weights, lengths=jnp.array([2]), implementation=name)[1].sum()
    jax.grad(run)(jnp.ones((1, 3, 2)))
print(*{name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
"""
OTHERS = {"dien_jax", "flax", "optax", "orbax", "jaxtyping", "beartype", "hypothesis", "msgspec"}


def test_every_module_imports_and_computes_with_jax_alone() -> None:
    """What the other package needs is not imported, even where it is installed."""
    # Some are there from the start, such as those of editable installations.
    started = set(printed("import sys; print(*sys.modules)").split())
    found = set(printed(EVERYTHING).split()) - started
    assert "dien_kernels" in found
    assert not found & OTHERS


def test_the_name_kernels_stays_free() -> None:
    """Another project on the registries has the import name ``kernels``."""
    code = "import importlib.util as u; s = u.find_spec('kernels'); print(s and s.origin)"
    assert printed(code, flags=("-P",)) == "None\n"
