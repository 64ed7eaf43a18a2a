"""``gru``, ``agru`` and ``augru``: argument checks and the choice of implementation.

Dimensions: B batch, T steps, D input, H hidden, G gates (3; AGRU has 2).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dien_kernels import devices, fused, reference
from dien_kernels.choice import KERNELS, Choice, Implementation, backend, choose, require
from dien_kernels.contract import Blocks
from dien_kernels.launch import shards
from dien_kernels.reference import Cell, Form, Weights

Precision = Literal["default", "high", "highest"]


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
    batch_sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """A gated recurrent unit over a masked history.

    With sigma the logistic function and o the element-wise product, ``form="paper"`` is::

        r = sigma(x W_r + h U_r + b_r)
        u = sigma(x W_u + h U_u + b_u)
        c = tanh(x W_c + r o (h U_c + d) + b_c)
        h' = (1 - u) o h + u o c

    and ``form="authors"`` has ``c = tanh(x W_c + (r o h) U_c + b_c)`` and
    ``h' = u o h + (1 - u) o c``.

    A step at or past a history's length leaves the state as it was: returned states repeat the
    last live one, and length 0 returns the initial state. What ``x`` holds there, NaN included,
    changes neither values nor gradients.

    Args:
      x: ``[B, T, D]``, float32 or bfloat16.
      weights: see :class:`Weights`, G = 3.
      lengths: integers ``[B]``, live steps of each row, 0 to T.
      initial_state: ``[B, H]``; zeros when None.
      form: ``"paper"`` or ``"authors"``.
      implementation: ``"reference"`` (the oracle), ``"xla"`` (two scans, any device),
        ``"mosaic_tpu"``, ``"mosaic_gpu"`` (Hopper) or ``"triton"`` (Ampere and newer); the
        default ``"auto"`` picks one, see :func:`explain`. All but the oracle have reverse-mode
        derivatives only.
      precision: of every matmul, as ``jax.lax.Precision``; ``"highest"`` is true float32.
      blocks: how a Pallas kernel cuts its work; None lets it choose by shape.
      batch_sharding: how the batch is split over devices, ``NamedSharding(mesh, P("data"))``
        say, where it is: XLA does not split a Pallas kernel by itself, and would gather rows.
        Weight gradients are summed over the devices. Not needed on one device, nor inside
        ``jax.shard_map``. The oracle needs none.

    Returns:
      States ``[B, T, H]`` and the last one ``[B, H]``, in the dtype of ``x``. State and
      accumulation are float32.

    Raises:
      ValueError: for an argument of the wrong shape, dtype or name; it is named.
      NotImplementedError: where the implementation named cannot run here, and why.
      TypeError: for a forward-mode derivative of a fused implementation.

    Source: Cho et al., EMNLP 2014 (arXiv:1406.1078); Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """
    return _run(
        "gru",
        form,
        x,
        None,
        weights,
        lengths,
        initial_state,
        implementation,
        precision,
        blocks,
        batch_sharding,
    )


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
    batch_sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """An attention-based GRU: the attention stands in for the update gate.

    ``h' = (1 - a) o h + a o c`` in both forms, r and c as in :func:`gru`. ``a = 0`` freezes the
    state, ``a = 1`` overwrites it with the candidate.

    Args:
      x: ``[B, T, D]``, float32 or bfloat16.
      attention: ``[B, T]``, in [0, 1].
      weights: see :class:`Weights`, G = 2 (reset, candidate).
      lengths: integers ``[B]``, live steps of each row, 0 to T.
      initial_state: ``[B, H]``; zeros when None.
      form: ``"paper"`` or ``"authors"``.
      implementation: as in :func:`gru`.
      precision: as in :func:`gru`.
      blocks: as in :func:`gru`.
      batch_sharding: as in :func:`gru`.

    Returns:
      States ``[B, T, H]`` and the last one ``[B, H]``, as in :func:`gru`.

    Raises:
      ValueError: for an argument of the wrong shape, dtype or name; it is named.
      NotImplementedError: where the implementation named cannot run here, and why.
      TypeError: for a forward-mode derivative of a fused implementation.

    Source: Zhou et al., AAAI 2019, eq. 12 (arXiv:1809.03672).
    """
    return _run(
        "agru",
        form,
        x,
        attention,
        weights,
        lengths,
        initial_state,
        implementation,
        precision,
        blocks,
        batch_sharding,
    )


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
    batch_sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """A GRU whose update gate is scaled by attention.

    With r, u and c as in :func:`gru`, ``form="paper"`` is::

        u~ = a u,        h' = (1 - u~) o h + u~ o c

    and ``form="authors"``, what the paper's authors' program computes::

        u~ = (1 - a) u,  h' = u~ o h + (1 - u~) o c

    In the paper's form a = 0 freezes the state and a = 1 is an ordinary GRU step; in the
    authors', a = 0 is an ordinary step and a = 1 overwrites the state with the candidate.

    Args:
      x: ``[B, T, D]``, float32 or bfloat16.
      attention: ``[B, T]``, in [0, 1].
      weights: see :class:`Weights`, G = 3.
      lengths: integers ``[B]``, live steps of each row, 0 to T.
      initial_state: ``[B, H]``; zeros when None.
      form: ``"paper"`` or ``"authors"``.
      implementation: as in :func:`gru`.
      precision: as in :func:`gru`.
      blocks: as in :func:`gru`.
      batch_sharding: as in :func:`gru`.

    Returns:
      States ``[B, T, H]`` and the last one ``[B, H]``, as in :func:`gru`.

    Raises:
      ValueError: for an argument of the wrong shape, dtype or name; it is named.
      NotImplementedError: where the implementation named cannot run here, and why.
      TypeError: for a forward-mode derivative of a fused implementation.

    Source: Zhou et al., AAAI 2019, eq. 13 and 14 (arXiv:1809.03672).
    """
    return _run(
        "augru",
        form,
        x,
        attention,
        weights,
        lengths,
        initial_state,
        implementation,
        precision,
        blocks,
        batch_sharding,
    )


def explain(
    cell: Cell,
    *,
    batch: int,
    steps: int,
    hidden: int,
    form: Form = "paper",
    precision: Precision = "highest",
) -> Choice:
    """What ``implementation="auto"`` runs on the default device for this shape, and why.

    On a TPU or GPU a Pallas kernel is taken only after it has agreed with the oracle there, in a
    small check that runs once and is remembered on disk (``$DIEN_KERNELS_CACHE``, else
    ``~/.cache/dien_kernels``).

    Args:
      cell: ``"gru"``, ``"agru"`` or ``"augru"``.
      batch: rows on one device.
      steps: T.
      hidden: H.
      form: ``"paper"`` or ``"authors"``.
      precision: ``"default"``, ``"high"`` or ``"highest"``.

    Returns:
      The implementation's name and a sentence.
    """
    return choose(
        cell, form, rows=batch, steps=steps, hidden=hidden, precision=_precision(precision)
    )


def _run(
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array | None,
    implementation: Implementation,
    precision: Precision,
    blocks: Blocks | None,
    batch_sharding: NamedSharding | None,
) -> tuple[jax.Array, jax.Array]:
    _check(cell, form, x, attention, weights, lengths, initial_state)
    if implementation not in get_args(Implementation):
        _refuse("implementation", f"one of {get_args(Implementation)}", repr(implementation))
    exact = _precision(precision)
    batch, steps, _ = x.shape
    hidden = weights.recurrent.shape[0]
    chosen: str = implementation
    if implementation == "auto":
        rows = batch if batch_sharding is None else -(-batch // shards(batch_sharding))
        chosen = choose(
            cell, form, rows=rows, steps=steps, hidden=hidden, precision=exact, blocks=blocks
        ).implementation
    elif implementation in KERNELS:
        require(implementation)

    single = jnp.float32
    live = jnp.arange(steps, dtype=lengths.dtype)[None, :] < lengths[:, None]
    if initial_state is None:
        initial_state = jnp.zeros((batch, hidden), single)
    # The zero is typed: a converter to other formats may take a bare one for a double.
    zero = jnp.zeros((), single)
    operands = (
        x.astype(single),
        None if attention is None else jnp.where(live, attention.astype(single), zero),
        jax.tree.map(lambda part: part.astype(single), weights),
        lengths,
        initial_state.astype(single),
        exact,
    )
    if chosen == "reference":
        alive = jnp.where(live[..., None], operands[0], 0)
        states, last = reference.run(cell, form, alive, *operands[1:])
    else:
        try:
            states, last = fused.run(
                backend(chosen),
                cell,
                form,
                *operands,
                blocks=blocks if chosen in KERNELS else None,
                interpret=devices.is_interpreted(),
                sharding=batch_sharding,
            )
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                f"implementation={chosen!r} has reverse-mode derivatives only; use "
                "implementation='reference' for forward-mode ones"
            ) from error
    return states.astype(x.dtype), last.astype(x.dtype)


def _precision(name: Precision) -> jax.lax.Precision:
    if name not in get_args(Precision):
        _refuse("precision", f"one of {get_args(Precision)}", repr(name))
    return jax.lax.Precision[name.upper()]


def _refuse(name: str, expected: str, found: str) -> None:
    raise ValueError(f"{name}: expected {expected}, got {found}")


def _check(
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array | None,
) -> None:
    if form not in get_args(Form):
        _refuse("form", f"one of {get_args(Form)}", repr(form))
    if x.ndim != 3 or x.shape[1] < 1:
        _refuse("x", "shape [B, T, D] with T >= 1", str(x.shape))
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        _refuse("x", "float32 or bfloat16", str(x.dtype))
    batch, steps, depth = x.shape
    gates = 2 if cell == "agru" else 3
    hidden = weights.recurrent.shape[0]
    expected: dict[str, tuple[jax.Array | None, tuple[int, ...]]] = {
        "weights.input": (weights.input, (depth, gates, hidden)),
        "weights.recurrent": (weights.recurrent, (hidden, gates, hidden)),
        "weights.bias": (weights.bias, (gates, hidden)),
        "weights.recurrent_bias": (weights.recurrent_bias, (hidden,)),
        "lengths": (lengths, (batch,)),
        "attention": (attention, (batch, steps)),
        "initial_state": (initial_state, (batch, hidden)),
    }
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            _refuse(name, f"shape {shape}", str(array.shape))
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        _refuse("lengths", "integers", str(lengths.dtype))
    if form == "authors" and weights.recurrent_bias is not None:
        _refuse("weights.recurrent_bias", "None with form='authors'", "an array")
