"""``gru``, ``agru`` and ``augru``: argument checks and the choice of implementation.

Dimensions: B batch, T steps, D input, H hidden, G gates (3; AGRU has 2).
"""

import dataclasses

import jax
import jax.numpy as jnp

from dien_kernels import devices, fused, reference
from dien_kernels.checks import (
    Shapes,
    check_arrays,
    check_name,
    integers,
    precision_of,
    refuse,
    reverse_mode_only,
)
from dien_kernels.choice import KERNELS, Choice, backend, choose, require
from dien_kernels.contract import Blocks, Plan, Shape
from dien_kernels.options import Form, Implementation, Precision
from dien_kernels.reference import Cell, Inputs, Weights


def gru(
    x: jax.Array,
    weights: Weights,
    *,
    lengths: jax.Array,
    initial_state: jax.Array | None = None,
    form: Form = "paper",
    implementation: Implementation = "auto",
    precision: Precision = "highest",
    blocks: Blocks | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run a gated recurrent unit over masked histories.

    With sigma the logistic function and o the element-wise product, ``form="paper"`` is::

        r = sigma(x W_r + h U_r + b_r)
        u = sigma(x W_u + h U_u + b_u)
        c = tanh(x W_c + r o (h U_c + d) + b_c)
        h' = (1 - u) o h + u o c

    and ``form="authors"`` has ``c = tanh(x W_c + (r o h) U_c + b_c)`` and
    ``h' = u o h + (1 - u) o c``.

    A step at or past a history's length leaves the state unchanged: returned states repeat the
    last live one, and length 0 returns the initial state. Values of ``x`` there, NaN included,
    change neither results nor gradients.

    >>> weights = Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
    >>> states, last = gru(jnp.ones((1, 3, 2)), weights, lengths=jnp.array([2]))
    >>> states.shape, last.shape
    ((1, 3, 4), (1, 4))

    Args:
      x: ``[B, T, D]``, float32 or bfloat16.
      weights: see :class:`Weights`, G = 3.
      lengths: integers ``[B]``, live steps of each row, 0 to T.
      initial_state: ``[B, H]``; zeros when None.
      form: ``"paper"`` or ``"authors"``.
      implementation: ``"reference"`` (the oracle), ``"xla"`` (two scans, any device),
        ``"native"`` (C++ kernels for CPUs), ``"mosaic_tpu"``, ``"mosaic_gpu"`` (Hopper) or
        ``"triton"`` (Ampere and newer); the default ``"auto"`` picks one, see :func:`explain`. All
        but the oracle have first, reverse-mode derivatives only.
      precision: of every matmul, as ``jax.lax.Precision``; ``"highest"`` is true float32.
      blocks: block sizes of a Pallas kernel; chosen by shape when None.

    Returns:
      States ``[B, T, H]`` and the last one ``[B, H]``, in the dtype of ``x``. State and
      accumulation are float32.

    Raises:
      ValueError: for an argument of the wrong shape, dtype or name; the message names it.
      NotImplementedError: if the named implementation cannot run here, with the reason.
      TypeError: for a forward-mode derivative of a fused implementation.

    Source: Cho et al., EMNLP 2014 (arXiv:1406.1078); Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """
    inputs = Inputs(x, None, weights, lengths, initial_state)
    return _run("gru", form, inputs, implementation, precision, blocks)


def agru(
    x: jax.Array,
    attention: jax.Array,
    weights: Weights,
    *,
    lengths: jax.Array,
    initial_state: jax.Array | None = None,
    form: Form = "paper",
    implementation: Implementation = "auto",
    precision: Precision = "highest",
    blocks: Blocks | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run an attention-based GRU, in which attention replaces the update gate.

    ``h' = (1 - a) o h + a o c`` in both forms, r and c as in :func:`gru`. ``a = 0`` freezes the
    state, ``a = 1`` overwrites it with the candidate.

    >>> weights = Weights(jnp.ones((2, 2, 4)), jnp.ones((4, 2, 4)), jnp.zeros((2, 4)))
    >>> attention = jnp.array([[0.2, 0.8, 0.0]])
    >>> states, last = agru(jnp.ones((1, 3, 2)), attention, weights, lengths=jnp.array([3]))
    >>> states.shape, last.shape
    ((1, 3, 4), (1, 4))

    Attention is ``[B, T]``, in [0, 1]. Weights have G = 2 (reset, candidate). All other arguments,
    results and errors are as in :func:`gru`.

    Source: Zhou et al., AAAI 2019, eq. 12 (arXiv:1809.03672).
    """
    inputs = Inputs(x, attention, weights, lengths, initial_state)
    return _run("agru", form, inputs, implementation, precision, blocks)


def augru(
    x: jax.Array,
    attention: jax.Array,
    weights: Weights,
    *,
    lengths: jax.Array,
    initial_state: jax.Array | None = None,
    form: Form = "paper",
    implementation: Implementation = "auto",
    precision: Precision = "highest",
    blocks: Blocks | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run a GRU whose update gate is scaled by attention.

    With r, u and c as in :func:`gru`, ``form="paper"`` is::

        u~ = a u,        h' = (1 - u~) o h + u~ o c

    and ``form="authors"``, which the program of the paper's authors computes, is::

        u~ = (1 - a) u,  h' = u~ o h + (1 - u~) o c

    In the paper's form a = 0 freezes the state and a = 1 is an ordinary GRU step. In the authors'
    form a = 0 is an ordinary step and a = 1 overwrites the state with the candidate.

    >>> weights = Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
    >>> attention = jnp.array([[0.2, 0.8, 0.0]])
    >>> states, last = augru(jnp.ones((1, 3, 2)), attention, weights, lengths=jnp.array([3]))
    >>> bool((states[:, 2] == states[:, 1]).all())
    True

    Attention is ``[B, T]``, in [0, 1]. All other arguments, results and errors are as in
    :func:`gru`.

    Source: Zhou et al., AAAI 2019, eq. 13 and 14 (arXiv:1809.03672).
    """
    inputs = Inputs(x, attention, weights, lengths, initial_state)
    return _run("augru", form, inputs, implementation, precision, blocks)


def explain(
    cell: Cell,
    *,
    batch: int,
    steps: int,
    hidden: int,
    form: Form = "paper",
    precision: Precision = "highest",
) -> Choice:
    """Return what ``implementation="auto"`` runs on the default device for this shape, and why.

    A kernel is taken only after it has agreed with the oracle on the device, in a small check that
    runs once and is remembered on disk (``$DIEN_KERNELS_CACHE``, else ``~/.cache/dien_kernels``).
    The native kernels for CPUs are compiled before that, once;
    ``$DIEN_KERNELS_NATIVE=0`` prevents both.

    >>> import dien_kernels
    >>> h100 = dien_kernels.Device("gpu", "NVIDIA H100", (9, 0))
    >>> with dien_kernels.assume(h100):
    ...     explain("augru", batch=128, steps=100, hidden=36).implementation
    'xla'

    The shape is ``batch`` rows on one device, ``steps`` T and ``hidden`` H; ``form`` and
    ``precision`` are as in :func:`gru`.
    """
    check_name("cell", cell, Cell)
    check_name("form", form, Form)
    return choose(Plan(cell, form, precision_of(precision)), Shape(batch, steps, hidden))


def _run(
    cell: Cell,
    form: Form,
    inputs: Inputs,
    implementation: Implementation,
    precision: Precision,
    blocks: Blocks | None,
) -> tuple[jax.Array, jax.Array]:
    """Check arguments, choose an implementation and run it in float32."""
    x, attention, weights, lengths, initial_state = inputs
    check_name("form", form, Form)
    if x.ndim != 3 or x.shape[1] < 1:
        refuse("x", "shape [B, T, D] with T >= 1", x.shape)
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        refuse("x", "float32 or bfloat16", x.dtype)
    if not isinstance(weights, Weights):
        refuse("weights", "dien_kernels.Weights", f"a {type(weights).__name__}")
    batch, steps, depth = x.shape
    hidden = weights.recurrent.shape[0]
    shapes: Shapes = {
        "lengths": (lengths, (batch,)),
        "initial_state": (initial_state, (batch, hidden)),
    }
    if cell != "gru":
        shapes["attention"] = attention, (batch, steps)
    check_arrays(form, weights, 2 if cell == "agru" else 3, depth, shapes)
    lengths = integers("lengths", lengths)
    check_name("implementation", implementation, Implementation)
    plan, shape = Plan(cell, form, precision_of(precision)), Shape(batch, steps, hidden)
    if implementation == "auto":
        implementation = choose(plan, shape, blocks).implementation
    elif implementation in KERNELS:
        require(implementation)

    single = jnp.float32
    live = jnp.arange(steps, dtype=lengths.dtype)[None, :] < lengths[:, None]
    if initial_state is None:
        initial_state = jnp.zeros((batch, hidden), single)
    # The zero is typed: a converter to other formats may take a bare one for a double.
    zero = jnp.zeros((), single)
    if attention is not None:
        attention = jnp.where(live, attention.astype(single), zero)
    weights = jax.tree.map(lambda part: part.astype(single), weights)
    inputs = Inputs(x.astype(single), attention, weights, lengths, initial_state.astype(single))
    if implementation == "reference":
        inputs = inputs._replace(x=jnp.where(live[..., None], inputs.x, 0))
        states, last = reference.run(cell, form, inputs, plan.precision)
    else:
        module = backend(implementation)
        plan = fused.with_blocks(plan, module, shape, blocks)
        plan = dataclasses.replace(plan, interpret=devices.is_interpreted())
        with reverse_mode_only(implementation):
            states, last = fused.run(module, plan, inputs)
    return states.astype(x.dtype), last.astype(x.dtype)
