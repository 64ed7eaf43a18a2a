"""Adam in one pass: values, arrays in place, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import adam_update
from dien_kernels.native import build

SHAPES = {"table": (130, 151), "bias": (7,), "scalar": (), "empty": (0, 3)}
RNG = np.random.default_rng(0)
PARAMS, *GRADIENTS = (
    {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    for _ in range(4)
)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.mark.parametrize("implementation", ["native", "xla"])
def test_updates_are_those_of_the_equations(implementation):
    update = jax.jit(functools.partial(adam_update, rate=0.01, implementation=implementation))
    params, means, variances = PARAMS, ZEROS, ZEROS
    exact = {name: [np.float64(array), 0.0, 0.0] for name, array in PARAMS.items()}
    for count, gradients in enumerate(GRADIENTS, 1):
        norm, params, means, variances = update(params, means, variances, gradients, count=count)
        for name, (p, m, v) in exact.items():
            g = np.float64(gradients[name])
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            step = 0.01 * m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
            exact[name] = [p - step, m, v]
        squares = [np.sum(np.float64(array) ** 2) for array in gradients.values()]
        np.testing.assert_allclose(norm, np.sqrt(np.sum(squares)), rtol=1e-6)
    for name, arrays in exact.items():
        # The correction of variances loses digits in 1 - .999^n, as that of optax does.
        for found, expected in zip((params, means, variances), arrays, strict=True):
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-6)


def test_donated_arrays_are_updated_in_place_and_others_are_kept():
    update = functools.partial(adam_update, rate=0.01, count=1, implementation="native")
    donated = jax.jit(update, donate_argnums=(0, 1, 2)).lower(PARAMS, ZEROS, ZEROS, GRADIENTS[0])
    memory = donated.compile().memory_analysis()
    size = sum(array.nbytes for array in PARAMS.values())
    assert memory.alias_size_in_bytes == 3 * size
    assert memory.temp_size_in_bytes < size / 10
    kept = jax.tree.map(jnp.asarray, PARAMS)
    update(kept, ZEROS, ZEROS, GRADIENTS[0])
    jax.tree.map(np.testing.assert_array_equal, kept, PARAMS)


def test_parts_are_those_of_the_sources():
    assert "constexpr Index kAdamPart = 16384;" in (build.SOURCES / "arguments.h").read_text()
    assert 16384 < np.prod(SHAPES["table"]) < 2 * 16384  # values above cross a border


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"means": {"bias": jnp.zeros(8)}}, "means: expected arrays like params"),
        ({"gradients": GRADIENTS[0] | {"more": jnp.zeros(2)}}, "gradients: expected arrays like"),
        (
            {"variances": ZEROS | {"bias": jnp.zeros(7, jnp.bfloat16)}},
            "variances: expected float32",
        ),
        ({"implementation": "nativ"}, "did you mean 'native'"),
        ({"count": 0}, "count: expected 1 or more, got 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changed, message):
    right = {"params": PARAMS, "means": ZEROS, "variances": ZEROS, "gradients": GRADIENTS[0]}
    with pytest.raises(ValueError, match=message):
        adam_update(**{**right, "count": 1, **changed}, rate=0.1)
