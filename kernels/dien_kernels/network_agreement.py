"""The check of :mod:`dien_kernels.agreement` for attention and the auxiliary loss."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dien_kernels import agreement, candidates, network_equations
from dien_kernels.devices import Device
from dien_kernels.native import candidates as native_candidates
from dien_kernels.native import library, networks
from dien_kernels.network_equations import Dense

Network = Literal["attention", "auxiliary", "candidates"]
"""What has a kernel: attention, the auxiliary loss, and many candidates of one history."""
# No multiples of a panel or a tile; the auxiliary loss has two sampled behaviours.
BATCH, STEPS, INPUT, HIDDEN, LAYERS = 23, 9, 12, 20, (26, 17)
TOLERANCE = agreement.TOLERANCES[agreement.EXACT]


@functools.cache
def outcome(network: Network, device: Device) -> agreement.Outcome:
    """Return the outcome of the check of the native kernel from its file, or run the check."""
    key = agreement.key_of(f"native-{network}", device, library.identity())
    return agreement.remembered(key, lambda: agreement.compare(RESULTS[network], TOLERANCE))


def _layers(inputs: int) -> tuple[Dense, ...]:
    widths = (inputs, *LAYERS, 1)
    shapes = [(*pair,) for pair in itertools.pairwise(widths)]
    biases = [(width,) for width in widths[1:]]
    arrays = agreement.arrays(*shapes, *biases)
    return tuple(map(Dense, arrays[: len(shapes)], arrays[len(shapes) :]))


def _lengths() -> jax.Array:
    return jnp.arange(BATCH, dtype=jnp.int32) % (STEPS + 1)


def attention_results() -> tuple[Any, Any]:
    """Return attention and its gradients, of the kernel and of the oracle."""

    def inputs() -> tuple:
        query, states = agreement.arrays((BATCH, HIDDEN), (BATCH, STEPS, HIDDEN))
        return query, states, _layers(4 * HIDDEN), _lengths()

    def results(run: Callable, *arguments: Any) -> Any:
        def objective(*arguments: Any) -> tuple[jax.Array, jax.Array]:
            attention = run(*arguments)
            return jnp.sin(3 * attention).sum(), attention

        differentiated = jax.grad(objective, (0, 1, 2), has_aux=True)
        (*gradients, d_layers), attention = differentiated(*arguments)
        # The softmax takes the last bias out: its gradient is rounding.
        return attention, gradients, d_layers[:-1], d_layers[-1].kernel

    return _both(inputs, results, networks.attention, network_equations.reference_attention)


def auxiliary_results() -> tuple[Any, Any]:
    """Return the auxiliary loss and its gradients, of the kernel and of the oracle."""

    def inputs() -> tuple:
        *arrays, noise = agreement.arrays(
            (BATCH, STEPS, HIDDEN),
            (BATCH, STEPS, INPUT),
            (2, BATCH, STEPS - 1, INPUT),
            (3, BATCH, STEPS - 1),
        )
        following = jnp.arange(1, STEPS, dtype=jnp.int32)
        shares = jnp.where(following[None] < _lengths()[:, None], jnp.abs(noise), 0)
        return *arrays, shares, _layers(HIDDEN + INPUT)

    def results(run: Callable, *arguments: Any) -> Any:
        return jax.value_and_grad(lambda *given: 3 * run(*given), (0, 1, 2, 4))(*arguments)

    return _both(inputs, results, networks.auxiliary_loss, network_equations.reference_loss)


def candidate_results() -> tuple[Any, Any]:
    """Return attention and last states of candidates, of the kernels and of XLA.

    The cells share all of a step but its last line; tests compare each.
    """
    length = jnp.int32(STEPS - 2)

    def inputs() -> tuple:
        attention, projected, recurrent, bias, recurrent_bias, query, states = agreement.arrays(
            (BATCH, STEPS),
            (STEPS, 3, HIDDEN),
            (HIDDEN, 3, HIDDEN),
            (3, HIDDEN),
            (HIDDEN,),
            (BATCH, HIDDEN),
            (STEPS, HIDDEN),
        )
        weights = 0.3 * recurrent, bias, recurrent_bias
        return (query, states, _layers(4 * HIDDEN)), (projected, jnp.abs(attention)), weights

    def results(run: tuple[Callable, Callable], first: tuple, second: tuple, weights: tuple) -> Any:
        attend, last = run
        inputs, attentions = second
        operands = candidates.SharedInputs(inputs, attentions, length, *weights)
        both = [last(operands, paper=paper, scales_inputs=False) for paper in (True, False)]
        return attend(*first, length), both

    kernels = native_candidates.attention, native_candidates.last_states
    highest = functools.partial(candidates.xla_last_states, precision=agreement.EXACT)
    return _both(inputs, results, kernels, (candidates.reference_candidates, highest))


RESULTS: dict[Network, Callable[[], tuple[Any, Any]]] = {
    "attention": attention_results,
    "auxiliary": auxiliary_results,
    "candidates": candidate_results,
}


def _both(inputs: Callable, results: Callable, kernel: Any, oracle: Any) -> tuple[Any, Any]:
    # Arguments, as XLA would compute a program without any as it compiles it.
    arguments = jax.jit(inputs)()
    found, expected = (jax.jit(functools.partial(results, run)) for run in (kernel, oracle))
    return found(*arguments), expected(*arguments)
