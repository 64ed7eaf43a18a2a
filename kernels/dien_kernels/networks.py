"""Attention, auxiliary loss, candidates of a history, Adam: checks and choice of implementation.

To rank N candidates for one user, a recurrence runs over the same inputs N times, and only the
attention differs. The inputs are projected once, a step is one matmul for all candidates, and steps
past the end of the history are skipped. Forward only: in training each row has its own history.

Dimensions: B batch (rows), T steps, N sampled behaviours of a position or candidates, D behaviour
or input, H state, G gates (3; AGRU has 2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dien_kernels import adam, agreement, candidates, devices, reference, xla_networks
from dien_kernels.agreement import Network
from dien_kernels.checks import (
    Shapes,
    check_arrays,
    check_name,
    check_shapes,
    integers,
    precision_of,
    refuse,
    reverse_mode_only,
)
from dien_kernels.choice import Choice, first_that_agrees, require
from dien_kernels.native import library
from dien_kernels.native import networks as native
from dien_kernels.options import Form, Implementation, NetworkImplementation, Precision
from dien_kernels.reference import Inputs, Layers, Weights, with_bias

SharedCell = Literal["aigru", "agru", "augru"]
"""Recurrences with attention that :func:`last_states` supports."""


def attention_weights(
    query: jax.Array,
    states: jax.Array,
    layers: Layers,
    *,
    lengths: jax.Array,
    implementation: NetworkImplementation = "auto",
) -> jax.Array:
    """Return attention weights of a row's query over its states, scored by an MLP.

    The score of state h for query q is an MLP of ``[q, h, q - h, q o h]``, with sigmoids after all
    layers but the last. Weights are the softmax over live steps: they sum to 1, or are 0 in a row
    of length 0, and are exactly 0 at a step at or past a row's length.

    >>> import jax.numpy as jnp
    >>> from dien_kernels import Dense, attention_weights
    >>> layers = (Dense(jnp.ones((12, 5)), jnp.zeros(5)), Dense(jnp.ones((5, 1)), jnp.zeros(1)))
    >>> query, states = jnp.ones((2, 3)), jnp.ones((2, 4, 3))
    >>> attention_weights(query, states, layers, lengths=jnp.array([2, 0])).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]

    Args:
      query: ``[B, H]``, float32 or bfloat16.
      states: ``[B, T, H]``.
      layers: the first one reads 4 H inputs; the last one has one column, the score.
      lengths: integers ``[B]``, live steps of each row, 0 to T.
      implementation: ``"reference"`` (the oracle), ``"xla"``, ``"native"`` (a C++ kernel for CPUs)
        or ``"auto"``. All but the oracle have first, reverse-mode derivatives.

    Returns:
      ``[B, T]``, float32.

    Raises:
      ValueError: for an argument of the wrong shape, dtype or name; the message names it.
      NotImplementedError: if the named implementation cannot run here, with the reason.

    Source: Zhou et al., KDD 2018 (arXiv:1706.06978), and the program of the authors of DIEN.
    """
    if states.ndim != 3 or states.shape[1] < 1:
        refuse("states", "shape [B, T, H] with T >= 1", states.shape)
    batch, _, hidden = states.shape
    _check(states, layers, 4 * hidden, {"query": (query, (batch, hidden)),
                                        "lengths": (lengths, (batch,))})  # fmt: skip
    lengths = integers("lengths", lengths)
    name = chosen("attention", implementation, len(layers) - 1)
    runs = xla_networks.xla_attention, native.attention, reference.reference_attention
    return _run(name, runs, query, states, tuple(layers), lengths)


def candidate_attention(
    query: jax.Array,
    states: jax.Array,
    layers: Layers,
    *,
    length: jax.Array,
    implementation: NetworkImplementation = "auto",
) -> jax.Array:
    """Return :func:`attention_weights` of many candidates over one history.

    >>> import jax.numpy as jnp
    >>> from dien_kernels import Dense, candidate_attention
    >>> layers = (Dense(jnp.ones((12, 5)), jnp.zeros(5)), Dense(jnp.ones((5, 1)), jnp.zeros(1)))
    >>> query, states = jnp.ones((2, 3)), jnp.ones((4, 3))
    >>> candidate_attention(query, states, layers, length=jnp.int32(2)).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]

    Args:
      query: ``[N, H]``, float32 or bfloat16.
      states: ``[T, H]``.
      layers: as in :func:`attention_weights`.
      length: integer scalar, live steps, 0 to T.
      implementation: as in :func:`attention_weights`; ``"native"`` has no derivatives.

    Returns:
      ``[N, T]``, float32.

    Raises:
      ValueError, NotImplementedError: as :func:`attention_weights` does.
    """
    if states.ndim != 2 or states.shape[0] < 1:
        refuse("states", "shape [T, H] with T >= 1", states.shape)
    hidden = states.shape[1]
    _check(states, layers, 4 * hidden, {"query": (query, (query.shape[0], hidden)),
                                        "length": (length, ())})  # fmt: skip
    name = chosen("candidates", implementation, len(layers) - 1)
    runs = candidates.xla_candidates, native.candidate_attention, candidates.reference_candidates
    return _run(name, runs, query, states, tuple(layers), integers("length", length))


def auxiliary_loss(
    states: jax.Array,
    history: jax.Array,
    sampled: jax.Array,
    shares: jax.Array,
    layers: Layers,
    *,
    implementation: NetworkImplementation = "auto",
) -> jax.Array:
    """Return the loss of distinguishing the next behaviour of a state from sampled ones, in nats.

    Position t of a row has state t, the real behaviour ``history[:, t + 1]`` and the sampled ones
    ``sampled[:, :, t]``. Let l be the score of an MLP of [state, behaviour] with sigmoids after all
    layers but the last. The loss is the sum of ``share * softplus(-l)`` over real and of
    ``share * softplus(l)`` over sampled behaviours.

    >>> import jax.numpy as jnp
    >>> from dien_kernels import Dense, auxiliary_loss
    >>> layers = (Dense(jnp.ones((5, 4)), jnp.zeros(4)), Dense(jnp.zeros((4, 1)), jnp.zeros(1)))
    >>> states, history, sampled = jnp.ones((1, 3, 2)), jnp.ones((1, 3, 3)), jnp.ones((1, 1, 2, 3))
    >>> shares = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])  # the second position is dead
    >>> round(float(auxiliary_loss(states, history, sampled, shares, layers)), 4)  # 2 log 2
    1.3863

    Args:
      states: ``[B, T, H]``, float32 or bfloat16.
      history: ``[B, T, D]``, the behaviours.
      sampled: ``[N, B, T - 1, D]``.
      shares: ``[1 + N, B, T - 1]``, float32 constants, real behaviours first. Positions whose
        shares are 0 add nothing.
      layers: the first one reads H + D inputs; the last one has one column, the score.
      implementation: as in :func:`attention_weights`. ``"xla"`` and ``"native"`` compute the
        gradients with the value and keep no activation; ``"native"`` does so in every call.

    Returns:
      A scalar, float32; 0 for T = 1.

    Raises:
      ValueError, NotImplementedError: as :func:`attention_weights` does.

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """
    if states.ndim != 3 or history.ndim != 3 or sampled.ndim != 4:
        found = f"{states.shape}, {history.shape} and {sampled.shape}"
        refuse("states, history, sampled", "[B, T, H], [B, T, D] and [N, B, T - 1, D]", found)
    batch, steps, hidden = states.shape
    depth, count, positions = history.shape[-1], len(sampled), (batch, steps - 1)
    _check(states, layers, hidden + depth, {
        "history": (history, (batch, steps, depth)),
        "sampled": (sampled, (count, *positions, depth)),
        "shares": (shares, (1 + count, *positions)),
    })  # fmt: skip
    name = chosen("auxiliary", implementation, len(layers) - 1)
    shares = jax.lax.stop_gradient(shares.astype(jnp.float32))
    if steps == 1:
        return jnp.zeros((), jnp.float32)
    runs = xla_networks.xla_loss, native.auxiliary_loss, reference.reference_loss
    return _run(name, runs, states, history, sampled, shares, tuple(layers))


def last_states(  # noqa: D417
    cell: SharedCell,
    form: Form,
    states: jax.Array,
    attention: jax.Array,
    weights: Weights,
    length: jax.Array,
    precision: Precision = "highest",
    implementation: NetworkImplementation = "auto",
) -> jax.Array:
    """Return the last state of a recurrence over one history, for each attention.

    Row n is the last state of :func:`dien_kernels.agru` or :func:`dien_kernels.augru` over
    ``states`` under ``attention[n]``. ``"aigru"`` is :func:`dien_kernels.gru` over
    ``attention[n, t] * states[t]``. The first state is zero.

    Args:
      states: ``[T, D]``, the inputs, float32 or bfloat16.
      attention: ``[N, T]``, in [0, 1].
      weights: see :class:`Weights`, G = 3 (2 for AGRU).
      length: integer scalar, live steps, 0 to T.

    ``form``, ``precision`` and errors are as in :func:`dien_kernels.gru`, ``implementation`` as in
    :func:`dien_kernels.attention_weights`; only the oracle has derivatives.

    Returns:
      ``[N, H]``, in the dtype of ``states``; computed in float32.

    Example:
      >>> weights = Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
      >>> attention = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])  # of two candidates
      >>> last = last_states("augru", "paper", jnp.ones((3, 2)), attention, weights, jnp.int32(3))
      >>> last.shape, bool((last[1] == 0).all())
      ((2, 4), True)

    Source: Zhou et al., AAAI 2019, eq. 11 to 14 (arXiv:1809.03672).
    """
    check_name("cell", cell, SharedCell)
    check_name("form", form, Form)
    exact = precision_of(precision)
    if states.ndim != 2 or states.shape[0] < 1:
        refuse("states", "shape [T, D] with T >= 1", states.shape)
    steps, depth = states.shape
    shapes: Shapes = {"attention": (attention, (attention.shape[0], steps)), "length": (length, ())}
    check_arrays(form, weights, 2 if cell == "agru" else 3, depth, shapes)
    length = integers("length", length).clip(0, steps)  # XLA's steps end there
    name = chosen("candidates", implementation, 0)
    inputs, attention, weights = _single((states, attention, weights))
    if name == "reference":
        last = _by_copies(cell, form, inputs, attention, length, weights, exact)
        return last.astype(states.dtype)
    projected = jnp.einsum("td,dgh->tgh", inputs, weights.input, precision=exact)
    operands = candidates.SharedInputs(projected, attention, length, *with_bias(weights)[1:])
    run: Callable[..., jax.Array] = native.last_states
    if name == "xla":
        run = partial(candidates.xla_last_states, precision=exact)
    last = run(operands, paper=form == "paper", scales_inputs=cell == "aigru")
    return last.astype(states.dtype)


def adam_update(
    params: Any,
    means: Any,
    variances: Any,
    gradients: Any,
    *,
    rate: Any,
    count: Any,
    implementation: NetworkImplementation = "auto",
) -> adam.AdamUpdate:
    """Return Adam's update of all arrays of a model, by ``"native"`` in one pass over them.

        m' = .9 m + .1 g,  v' = .999 v + .001 g g
        p' = p - rate (m' / (1 - .9^n)) / (sqrt(v' / (1 - .999^n)) + 1e-8)

    >>> import jax.numpy as jnp
    >>> from dien_kernels import adam_update
    >>> zeros, gradients = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, -4.0])}
    >>> updated = adam_update(zeros, zeros, zeros, gradients, rate=0.1, count=1)
    >>> [round(float(value), 3) for value in (updated.norm, *updated.params["w"])]
    [5.0, -0.1, 0.1]

    Args:
      params: a tree of arrays p, float32.
      means: m, a tree like ``params``; zeros before the first update.
      variances: v, likewise.
      gradients: g, a tree like ``params``.
      rate: learning rate, a scalar.
      count: n, the number of updates with this one, an integer scalar.
      implementation: as in :func:`attention_weights`; the oracle is ``"xla"``, and ``"native"``
        has no derivatives.

    Returns:
      The norm of all gradients, a scalar; new params, means and variances.

    Raises:
      ValueError, NotImplementedError: as :func:`attention_weights` does.

    Source: Kingma and Ba, 2015 (arXiv:1412.6980).
    """
    trees = {"params": params, "means": means, "variances": variances, "gradients": gradients}
    expected = jax.tree.map(jnp.shape, params)
    for argument, tree in trees.items():
        if (found := jax.tree.map(jnp.shape, tree)) != expected:
            refuse(argument, f"arrays like params, of shapes {expected}", found)
        for leaf in jax.tree.leaves(tree):
            if jnp.result_type(leaf) != jnp.float32:
                refuse(argument, "float32", jnp.result_type(leaf))
    if isinstance(count, int) and count < 1:
        refuse("count", "1 or more", count)
    name = chosen("adam", implementation, 1)
    run = adam.native_adam if name == "native" else adam.xla_adam
    return run(adam.scales_of(rate, count), *trees.values())


def _by_copies(
    cell: SharedCell, form: Form, states: Any, attention: Any, length: Any, weights: Any, exact: Any
) -> jax.Array:
    """Return the oracle's last state over a copy of the history for each candidate."""
    live = jnp.arange(states.shape[0], dtype=length.dtype) < length
    copies = jnp.broadcast_to(jnp.where(live[:, None], states, 0), (len(attention), *states.shape))
    attention = jnp.where(live[None], attention, 0)
    if cell == "aigru":
        copies = copies * attention[..., None]
    lengths = jnp.broadcast_to(length, attention.shape[:1])
    initial = jnp.zeros((len(attention), weights.recurrent.shape[0]), jnp.float32)
    inputs = Inputs(copies, attention, weights, lengths, initial)
    return reference.run("gru" if cell == "aigru" else cell, form, inputs, exact)[1]


def _single(arrays: tuple) -> tuple:
    """Return the arrays in float32, integers unchanged."""

    def single(array: jax.Array) -> jax.Array:
        is_integer = jnp.issubdtype(array.dtype, jnp.integer)
        return array if is_integer else array.astype(jnp.float32)

    return jax.tree.map(single, arrays)


def _run(name: str, runs: tuple[Callable, Callable, Callable], *arrays: Any) -> jax.Array:
    """Call one of the functions for xla, native and reference; all but the first take float32."""
    xla, native, reference = runs
    with reverse_mode_only(name):
        if name == "xla":
            return xla(*arrays)
        return (native if name == "native" else reference)(*_single(arrays))


def _check(states: jax.Array, layers: Layers, inputs: int, shapes: Shapes) -> None:
    if states.dtype not in (jnp.float32, jnp.bfloat16):
        refuse("states", "float32 or bfloat16", states.dtype)
    if len(layers) < 2:
        refuse("layers", "one hidden layer or more, and the score", f"{len(layers)} layers")
    for number, (kernel, bias) in enumerate(layers):
        columns = 1 if number == len(layers) - 1 else kernel.shape[-1]
        shapes[f"layers[{number}].kernel"] = kernel, (inputs, columns)
        shapes[f"layers[{number}].bias"] = bias, (columns,)
        inputs = columns
    check_shapes(shapes)


def explain_network(network: Network, *, hidden_layers: int) -> Choice:
    """Return what ``implementation="auto"`` runs on the default device, and why.

    The network is ``"attention"``, ``"auxiliary"`` (:func:`auxiliary_loss`), ``"candidates"``
    (:func:`candidate_attention` and ``last_states``) or ``"adam"`` (:func:`adam_update`). As in
    :func:`dien_kernels.explain`, a kernel is taken only after it has agreed with the oracle.

    >>> choice = explain_network("attention", hidden_layers=2)
    >>> choice.implementation in ("xla", "native")
    True
    """
    check_name("network", network, Network)
    names = {"auxiliary": "the auxiliary loss", "candidates": "candidates of one history"}
    return first_that_agrees(
        names.get(network, network),
        ("native",),
        lambda _: _prepare_native(hidden_layers),
        lambda _: agreement.network_outcome(network, devices.current()),
    )


def _prepare_native(hidden_layers: int) -> None:
    """Load the library; raise ``NotImplementedError`` if it or that many layers cannot run."""
    if hidden_layers > native.MOST_LAYERS:
        most = f"networks of 1 to {native.MOST_LAYERS} hidden layers"
        raise NotImplementedError(f"its kernels are for {most}, this one has {hidden_layers}")
    library.instruction_set()


def chosen(network: Network, name: NetworkImplementation, hidden_layers: int) -> Implementation:
    """Return the implementation that runs, never auto."""
    check_name("implementation", name, NetworkImplementation)
    if name == "auto":
        return explain_network(network, hidden_layers=hidden_layers).implementation
    if name == "native":
        require("native")
        _prepare_native(hidden_layers)
    return name
