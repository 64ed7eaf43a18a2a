"""Time of attention, the auxiliary loss and the ranking of candidates, by implementation.

    python -m benchmarks.networks [--cases NAME ...] [--implementations NAME ...] [--json FILE]

Each row has the largest deviation of values or gradients from the oracle, measured in the same run.
Layer widths are the paper's. ``candidates`` computes the attention of 512 candidates to one
history, the first of the case, and the last AUGRU states under that attention.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import (
    Dense,
    NetworkImplementation,
    Weights,
    attention_weights,
    auxiliary_loss,
    candidate_attention,
    last_states,
)

from benchmarks.common.cases import CASES, Case
from benchmarks.common.comparison import Contender, measure
from benchmarks.common.report import make_parser, parse, report

ATTENTION_LAYERS, AUXILIARY_LAYERS, CANDIDATES = (80, 40), (100, 50), 512
COLUMNS = (
    "case", "network", "mode", "implementation", "median_ms", "spread_ms", "of_reference",
    "max_error",
)  # fmt: skip
Arrays = tuple[Any, ...]


def _normal(*shape: int, scale: float = 1) -> jax.Array:
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.normal(scale=scale, size=shape), jnp.float32)


def _layers(inputs: int, widths: Sequence[int]) -> tuple[Dense, ...]:
    sizes = zip((inputs, *widths), (*widths, 1), strict=True)
    return tuple(
        Dense(_normal(rows, columns, scale=rows**-0.5), _normal(columns, scale=0.1))
        for rows, columns in sizes
    )


def attention(case: Case) -> tuple[Callable, Arrays, Arrays]:
    """Return attention as a function, its differentiable operands, and its other operands."""
    query, states = _normal(case.batch, case.hidden), _normal(case.batch, case.steps, case.hidden)
    lengths = jnp.asarray(case.lengths())

    *layers, score = _layers(4 * case.hidden, ATTENTION_LAYERS)

    # The score's bias is not differentiated: it cancels in the softmax, so its gradient is noise.
    def run(name: Any, query: Any, states: Any, layers: Any, kernel: Any, lengths: Any) -> Any:
        layers = (*layers, score._replace(kernel=kernel))
        return attention_weights(query, states, layers, lengths=lengths, implementation=name)

    return run, (query, states, layers, score.kernel), (lengths,)


def auxiliary(case: Case) -> tuple[Callable, Arrays, Arrays]:
    """Return the auxiliary loss with one sampled behaviour, as :func:`attention`."""
    states = _normal(case.batch, case.steps, case.hidden)
    history, sampled = 0.5 * states, _normal(1, case.batch, case.steps - 1, case.hidden)
    live = np.arange(1, case.steps)[None] < case.lengths()[:, None]
    shares = jnp.asarray(np.stack([live, live]) / live.sum(), jnp.float32)

    def run(name: Any, states: Any, history: Any, sampled: Any, layers: Any, shares: Any) -> Any:
        return auxiliary_loss(states, history, sampled, shares, layers, implementation=name)

    return run, (states, history, sampled, _layers(2 * case.hidden, AUXILIARY_LAYERS)), (shares,)


def candidates(case: Case) -> tuple[Callable, Arrays, Arrays]:
    """Return attention and last states of candidates; no operand is differentiated."""
    hidden = case.hidden
    query, states = _normal(CANDIDATES, hidden), _normal(case.steps, hidden)
    gates, scale = (hidden, 3, hidden), hidden**-0.5
    weights = Weights(
        _normal(*gates, scale=scale), _normal(*gates, scale=0.9 * scale), _normal(3, hidden)
    )
    length = jnp.asarray(case.lengths()[0])

    def run(name: Any, query: Any, states: Any, layers: Any, weights: Any, length: Any) -> Any:
        options: Any = {"length": length, "implementation": name}
        attention = candidate_attention(query, states, layers, **options)
        return last_states("augru", "paper", states, attention, weights, **options)

    return run, (), (query, states, _layers(4 * hidden, ATTENTION_LAYERS), weights, length)


NETWORKS = {"attention": attention, "auxiliary loss": auxiliary, "candidates": candidates}


def computation(name: str, run: Callable, count: int) -> Callable:
    """Return a jitted function: values, and gradients of the first ``count`` operands, if any."""
    value = functools.partial(run, name)
    if not count:
        return jax.jit(value)

    def total(*operands: Any) -> jax.Array:
        results = value(*operands)
        return (results**2).sum() if results.ndim else results

    return jax.jit(jax.value_and_grad(total, tuple(range(count))))


def contenders(network: str, case: Case, names: Sequence[str], mode: str) -> dict[str, Contender]:
    """Return a contender for each implementation, by name."""
    run, differentiable, others = NETWORKS[network](case)
    count = 0 if mode == "forward" else len(differentiable)
    runs = {name: computation(name, run, count) for name in names}
    operands = (*differentiable, *others)
    return {name: Contender(functools.partial(run, *operands)) for name, run in runs.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__, keep_memory=True)
    parser.add_argument("--cases", nargs="+", default=["paper", "ragged"], choices=CASES)
    parser.add_argument(
        "--implementations", nargs="+", choices=get_args(NetworkImplementation),
        default=["xla", "native"], help="in addition to the oracle",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=30)
    options = parse(parser, arguments, repeats=2)
    names = ["reference", *(name for name in options.implementations if name != "reference")]
    rows: list[dict[str, Any]] = []
    for case in options.cases:
        for network in NETWORKS:
            # The auxiliary loss always computes its gradients too.
            modes = {"attention": ["forward", "forward + backward"], "candidates": ["forward"]}
            for mode in modes.get(network, ["forward + backward"]):
                measured = contenders(network, CASES[case], names, mode)
                expected = measured["reference"].call()
                shared = {"benchmark": "networks", "case": case, "network": network, "mode": mode}
                more, raised = measure(measured, expected, repeats=options.repeats, **shared)
                rows += more
                for name, error in raised.items():
                    raise SystemExit(f"{case}, {network}, {name}: {error}") from error
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
